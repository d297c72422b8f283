{{- /* What more than one template needs; a file with an underscore is no manifest. */ -}}

{{- define "phishing.labels" -}}
app: {{ .Chart.Name }}
version: {{ .Values.version | quote }}
{{- end }}

{{- define "phishing.image" -}}
{{- $tag := .Values.image.tag | default .Values.version -}}
{{- if eq $tag "latest" -}}
{{- fail "image.tag: latest is another image tomorrow; name a version" -}}
{{- end -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ $tag }}
{{- end -}}
{{- end }}
