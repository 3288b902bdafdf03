{{- define "gapo-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Leaves room for suffixes such as -lease within 63 characters. */}}
{{- define "gapo-operator.fullname" -}}
{{- $name := include "gapo-operator.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "gapo-operator.selector" -}}
app.kubernetes.io/name: {{ include "gapo-operator.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "gapo-operator.labels" -}}
{{- include "gapo-operator.labelsAnd" (list . dict) }}
{{- end }}

{{/* With more labels, as (list root more). Ours win over those, and those over commonLabels. */}}
{{- define "gapo-operator.labelsAnd" -}}
{{- $root := first . }}
{{- $ours := dict
  "app.kubernetes.io/name" (include "gapo-operator.name" $root)
  "app.kubernetes.io/instance" $root.Release.Name
  "app.kubernetes.io/version" $root.Chart.AppVersion
  "app.kubernetes.io/managed-by" $root.Release.Service
  "app.kubernetes.io/part-of" "gapo"
  "helm.sh/chart" (printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_")
}}
{{- merge $ours (last . | default dict) ($root.Values.commonLabels | default dict) | toYaml }}
{{- end }}

{{- define "gapo-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "gapo-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "gapo-operator.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The operator's configuration file. What only its own pod needs is left out; so is what is not set. */}}
{{- define "gapo-operator.config" -}}
{{- $locations := list }}
{{- range .Values.storageLocations }}
{{- $locations = append $locations (omit . "operatorSecret" "operatorCaConfigMap") }}
{{- end }}
{{- $trainer := dict }}
{{- range $key, $value := .Values.trainer }}
{{- if ne (toString $value) "" }}
{{- $_ := set $trainer $key $value }}
{{- end }}
{{- end }}
{{- $config := dict "storageLocations" $locations "trainer" $trainer }}
{{- range $name := list "allowedLabelPrefixes" "allowedAnnotationPrefixes" "allowedServiceAccounts" "podProfiles" }}
{{- with index $.Values $name }}
{{- $_ := set $config $name . }}
{{- end }}
{{- end }}
{{- toYaml $config }}
{{- end }}

{{/* Rules of the operator in every namespace that it works in. */}}
{{- define "gapo-operator.rules" -}}
- apiGroups: [gapo.dev]
  resources: [gaporuns]
  verbs: [list, watch, delete]
- apiGroups: [gapo.dev]
  resources: [gaporuns/status]
  verbs: [patch]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [list, watch, create, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch]
- apiGroups: [""]
  resources: [events]
  verbs: [list, watch, create]
{{- if .Values.volcano.enabled }}
- apiGroups: [scheduling.volcano.sh]
  resources: [podgroups]
  verbs: [create, patch, delete]
{{- end }}
{{- end }}

{{- define "gapo-operator.editorRules" -}}
- apiGroups: [gapo.dev]
  resources: [gaporuns]
  verbs: [get, list, watch, create, update, patch, delete, deletecollection]
- apiGroups: [gapo.dev]
  resources: [gaporuns/status]
  verbs: [get]
{{- end }}

{{- define "gapo-operator.viewerRules" -}}
- apiGroups: [gapo.dev]
  resources: [gaporuns]
  verbs: [get, list, watch]
- apiGroups: [gapo.dev]
  resources: [gaporuns/status]
  verbs: [get]
{{- end }}

{{/* A pod that asks the operator over HTTP. Takes root, service, seconds, paths (port and path of each request). The
     Service's address comes from the environment, as the kubelet sets it, or else from DNS. */}}
{{- define "gapo-operator.checkPod" -}}
{{- $root := .root -}}
{{- $service := .service -}}
restartPolicy: Never
automountServiceAccountToken: false
enableServiceLinks: true
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: check
    image: {{ include "gapo-operator.image" $root | quote }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    command: [python, -c]
    args:
      - |
        {{- $root.Files.Get "files/check.py" | trim | nindent 8 }}
      - {{ .seconds | quote }}
      - kubectl logs deployment/{{ include "gapo-operator.fullname" $root }} --namespace {{ $root.Release.Namespace }}
      {{- range .paths }}
      - http://{{ $service }}.{{ $root.Release.Namespace }}.svc:{{ . }}
      {{- end }}
    {{- with $root.Values.securityContext }}
    securityContext:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    resources:
      requests:
        cpu: 10m
        memory: 32Mi
      limits:
        memory: 128Mi
    terminationMessagePolicy: FallbackToLogsOnError
{{- with $root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
