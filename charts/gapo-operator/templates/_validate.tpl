{{/* What a schema cannot say, or cannot say in words that help. All that is wrong is told at once. */}}
{{- define "gapo-operator.validate" -}}
{{- $wrong := list }}
{{- if not .Values.image.repository }}
{{- $wrong = append $wrong "image.repository is not set: name the operator's image, such as --set image.repository=REGISTRY/gapo-operator" }}
{{- end }}
{{- if not .Values.trainer.image }}
{{- $wrong = append $wrong "trainer.image is not set: name the image of task pods, such as --set trainer.image=REGISTRY/gapo-trainer:TAG" }}
{{- end }}
{{- if not .Values.storageLocations }}
{{- $wrong = append $wrong "storageLocations is empty: runs are stored in a bucket that you list here, at least one, such as\n      storageLocations:\n        - name: team\n          uri: s3://BUCKET/PREFIX\n          region: eu-central-1" }}
{{- end }}
{{- if and .Chart.IsRoot (eq (toString .Values.enabled) "false") }}
{{- $wrong = append $wrong "enabled: false has no effect here: it is read by a chart that has this one as a dependency (condition: gapo-operator.enabled); take it out" }}
{{- end }}
{{- if and (eq .Values.strategy.type "Recreate") .Values.strategy.rollingUpdate }}
{{- $wrong = append $wrong "strategy.rollingUpdate needs strategy.type: RollingUpdate; for Recreate take it out, such as --set strategy.rollingUpdate=null" }}
{{- end }}
{{- /* Empty without a cluster, as for helm template. */}}
{{- $fullname := include "gapo-operator.fullname" . }}
{{- $live := lookup "apps/v1" "Deployment" .Release.Namespace $fullname | default dict }}
{{- $selector := dig "spec" "selector" "matchLabels" "app.kubernetes.io/name" "" $live }}
{{- if and $selector (ne $selector (include "gapo-operator.name" .)) }}
{{- $wrong = append $wrong (printf "nameOverride: the name by which pods are selected is %s and cannot change while Deployment %s is there: put nameOverride back, or give another fullnameOverride with it" $selector $fullname) }}
{{- end }}
{{- $names := dict }}
{{- range .Values.storageLocations }}
{{- if hasKey $names .name }}
{{- $wrong = append $wrong (printf "storageLocations: %s is there twice; names must differ" .name) }}
{{- end }}
{{- $_ := set $names .name true }}
{{- $mounted := eq (default "ambient" .credentials) "mountedSecret" }}
{{- if and $mounted (not .secretName) }}
{{- $wrong = append $wrong (printf "storageLocations: %s: credentials: mountedSecret needs secretName, a Secret in the namespaces of the runs" .name) }}
{{- else if and .secretName (not $mounted) }}
{{- $wrong = append $wrong (printf "storageLocations: %s: secretName needs credentials: mountedSecret" .name) }}
{{- end }}
{{- end }}
{{- $profiles := dict }}
{{- range .Values.podProfiles }}
{{- if hasKey $profiles .name }}
{{- $wrong = append $wrong (printf "podProfiles: %s is there twice; names must differ" .name) }}
{{- end }}
{{- $_ := set $profiles .name true }}
{{- end }}
{{- if $wrong }}
{{- fail (printf "\n\ngapo-operator cannot be installed like this:\n  - %s\n" (join "\n  - " $wrong)) }}
{{- end }}
{{- end }}
