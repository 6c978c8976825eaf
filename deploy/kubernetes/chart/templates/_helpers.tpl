{{/* The labels by which pods of one kind, `gateway` or `redis`, of this release are found. */}}
{{- define "thg-proxy.labels" -}}
thg-proxy: {{ .kind }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* config.yaml: the values, over what only the release knows. */}}
{{- define "thg-proxy.config" -}}
{{- $name := .Release.Name -}}
{{- $here := printf "%s.%s" $name .Release.Namespace -}}
{{- $names := list $name $here (printf "%s.svc" $here) (printf "%s.svc.cluster.local" $here) "localhost" "127.0.0.1" -}}
{{- mergeOverwrite (dict "policy" (dict "allowed_hosts" $names)) .Values.config | toYaml -}}
{{- end -}}

{{- define "thg-proxy.securityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end -}}
