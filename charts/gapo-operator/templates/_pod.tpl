{{/* The operator's pod: its spec. */}}
{{- define "gapo-operator.podSpec" -}}
{{- $credentials := false }}
{{- $authorities := false }}
{{- range .Values.storageLocations }}
{{- $credentials = or $credentials .operatorSecret }}
{{- $authorities = or $authorities .operatorCaConfigMap }}
{{- end }}
serviceAccountName: {{ include "gapo-operator.serviceAccountName" . | quote }}
automountServiceAccountToken: true
enableServiceLinks: false
terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - name: operator
    image: {{ include "gapo-operator.image" . | quote }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    command: [python, -m, gapo_operator]
    args:
      - --config
      - /etc/gapo/config.yaml
      {{- range .Values.watchNamespaces }}
      - --namespace
      - {{ . | quote }}
      {{- end }}
      {{- if $credentials }}
      - --credentials
      - /etc/gapo/credentials
      {{- end }}
      {{- if $authorities }}
      - --ca
      - /etc/gapo/ca
      {{- end }}
      {{- with .Values.extraArgs }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    env:
      - name: POD_NAME
        valueFrom:
          fieldRef:
            fieldPath: metadata.name
      - name: POD_NAMESPACE
        valueFrom:
          fieldRef:
            fieldPath: metadata.namespace
      - name: PYTHONUNBUFFERED
        value: "1"
      {{- with .Values.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    ports:
      - name: http
        containerPort: 8080
      - name: metrics
        containerPort: 8081
    {{- with .Values.probes.startup }}
    startupProbe:
      httpGet:
        path: /livez
        port: http
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.probes.liveness }}
    livenessProbe:
      httpGet:
        path: /livez
        port: http
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.probes.readiness }}
    readinessProbe:
      httpGet:
        path: /readyz
        port: http
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.securityContext }}
    securityContext:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- with .Values.resources }}
    resources:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    terminationMessagePolicy: FallbackToLogsOnError
    volumeMounts:
      # By subPath, so that other mounts can lie beside it. The file never changes in place, see checksum/config.
      - name: config
        mountPath: /etc/gapo/config.yaml
        subPath: config.yaml
        readOnly: true
      - name: tmp
        mountPath: /tmp
      {{- range $index, $location := .Values.storageLocations }}
      {{- if $location.operatorSecret }}
      - name: credentials-{{ $index }}
        mountPath: /etc/gapo/credentials/{{ $location.name }}
        readOnly: true
      {{- end }}
      {{- if $location.operatorCaConfigMap }}
      - name: ca-{{ $index }}
        mountPath: /etc/gapo/ca/{{ $location.name }}
        readOnly: true
      {{- end }}
      {{- end }}
      {{- with .Values.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
volumes:
  - name: config
    configMap:
      name: {{ include "gapo-operator.fullname" . | quote }}
  - name: tmp
    emptyDir:
      sizeLimit: 64Mi
  {{- range $index, $location := .Values.storageLocations }}
  {{- with $location.operatorSecret }}
  - name: credentials-{{ $index }}
    secret:
      secretName: {{ . | quote }}
      defaultMode: 0440
  {{- end }}
  {{- with $location.operatorCaConfigMap }}
  - name: ca-{{ $index }}
    configMap:
      name: {{ . | quote }}
      items:
        - key: ca.crt
          path: ca.crt
  {{- end }}
  {{- end }}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Labels of the operator's pod, but the last one. */}}
{{- define "gapo-operator.podLabels" -}}
{{- $mine := dict "app.kubernetes.io/component" "operator" }}
{{- include "gapo-operator.labelsAnd" (list . (merge $mine (.Values.podLabels | default dict))) }}
{{- end }}

{{- define "gapo-operator.podAnnotations" -}}
{{- /* A file mounted by subPath stays as it was when the pod began: a changed configuration starts a new pod. */}}
{{- $checksum := dict "checksum/config" (include "gapo-operator.config" . | sha256sum) }}
{{- merge $checksum (.Values.podAnnotations | default dict) | toYaml }}
{{- end }}

{{/* Tells pods of this install or upgrade from those before it, as a label: the self check asks these alone. */}}
{{- define "gapo-operator.podDigest" -}}
{{- $parts := list (include "gapo-operator.podSpec" .) (include "gapo-operator.podLabels" .) (include "gapo-operator.podAnnotations" .) }}
{{- join "\n" $parts | sha256sum | trunc 16 }}
{{- end }}
