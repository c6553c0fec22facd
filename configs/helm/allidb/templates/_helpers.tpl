{{- define "allidb.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end }}
{{- end }}

{{- define "allidb.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "allidb.labels" -}}
{{ include "allidb.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* What comes after a pod's name in its own, which its hosts file has, too: a node knows where it is before the cluster's names do. */}}
{{- define "allidb.domain" -}}
{{ include "allidb.name" . }}-nodes.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{- define "allidb.isRing" -}}
{{- if gt (int .Values.ring.founders) 1 }}true{{ end }}
{{- end }}

{{/* The daemon's options; those of `config` come on top. */}}
{{- define "allidb.config" -}}
{{- $tls := "/etc/allidb/tls" }}
{{- $listen := dict
  "grpc" (printf "%s:7000" .Values.listenAddress)
  "http" (printf "%s:7001" .Values.listenAddress)
  "certificate_file" (printf "%s/tls.crt" $tls)
  "key_file" (printf "%s/tls.key" $tls) }}
{{- if .Values.tls.clientsShowCertificates }}
{{- $_ := set $listen "client_authority_file" (printf "%s/ca.crt" $tls) }}
{{- end }}
{{- $access := dict "keys_required" .Values.access.keysRequired }}
{{- if .Values.access.adminKeySecretName }}
{{- $_ := set $access "admin_key_file" "/etc/allidb/admin-key/admin-key" }}
{{- end }}
{{- $config := dict "data_dir" "/var/lib/allidb" "listen" $listen "access" $access "log" (dict "format" "json") }}
{{- if include "allidb.isRing" . }}
{{- $founders := list }}
{{- range $i := until (int .Values.ring.founders) }}
{{- $founders = append $founders (printf "%s-%d.%s:7002" (include "allidb.name" $) $i (include "allidb.domain" $)) }}
{{- end }}
{{- $_ := set $config "ring" (dict
  "name" (default .Release.Name .Values.ring.name)
  "founders" $founders
  "replication" .Values.ring.replication
  "listen" (printf "%s:7002" .Values.listenAddress)
  "certificate_file" (printf "%s/tls.crt" $tls)
  "key_file" (printf "%s/tls.key" $tls)
  "authority_file" (printf "%s/ca.crt" $tls)) }}
{{- end }}
{{- toYaml (mustMergeOverwrite $config (deepCopy .Values.config)) }}
{{- end }}
