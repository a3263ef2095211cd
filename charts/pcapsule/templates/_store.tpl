{{/* The settings of the bucket, as S3 users know them. For the hub only. */}}
{{- define "pcapsule.storeEnv" -}}
{{- $secret := include "pcapsule.storeSecret" . -}}
{{- with .Values.store.s3 -}}
{{- with .endpoint }}
- name: AWS_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
{{- with .region }}
- name: AWS_REGION
  value: {{ . | quote }}
{{- end }}
{{- if kindIs "bool" .pathStyle }}
- name: PCAPSULE_S3_PATH_STYLE
  value: {{ .pathStyle | quote }}
{{- end }}
{{- if .ca }}
- name: AWS_CA_BUNDLE
  value: /etc/pcapsule/store/ca.crt
{{- end }}
{{- if $secret }}
{{- $keys := .existingSecretKeys }}
{{- if not .existingSecret }}
{{- $keys = dict "accessKeyId" "AWS_ACCESS_KEY_ID" "secretAccessKey" "AWS_SECRET_ACCESS_KEY" }}
{{- end }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: {{ $keys.accessKeyId | quote }}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: {{ $keys.secretAccessKey | quote }}}
{{- with $keys.sessionToken }}
- name: AWS_SESSION_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ $secret }}, key: {{ . | quote }}, optional: true}
{{- end }}
{{- end }}
{{- end -}}
{{- end }}
