{{/* The stem of all names: the release's name, and "pcapsule" in it. */}}
{{- define "pcapsule.fullname" -}}
{{- $name := .Release.Name -}}
{{- if .Values.fullnameOverride -}}
{{- $name = .Values.fullnameOverride -}}
{{- else if not (contains "pcapsule" .Release.Name) -}}
{{- $name = printf "%s-pcapsule" .Release.Name -}}
{{- end -}}
{{- $name | trunc 45 | trimSuffix "-" -}}
{{- end }}

{{/* The stem of names that have no namespace. */}}
{{- define "pcapsule.clustername" -}}
{{ .Release.Namespace }}-{{ include "pcapsule.fullname" . }}
{{- end }}

{{/* Labels of a selector: (list $ "hub"). Commands find the hub by the first and the last. */}}
{{- define "pcapsule.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: pcapsule
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Labels of a pod: those that no upgrade of the chart alone changes, or all would restart. */}}
{{- define "pcapsule.podLabels" -}}
{{ include "pcapsule.selector" . }}
{{- with (index . 0).Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of an object: (list $ "hub"). */}}
{{- define "pcapsule.labels" -}}
{{- $root := index . 0 -}}
{{ include "pcapsule.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "pcapsule.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* An argument of a container as it is: Kubernetes would replace $(NAME). */}}
{{- define "pcapsule.arg" -}}
{{ . | replace "$(" "$$(" | quote }}
{{- end }}

{{/* What the hub is called within the cluster, as a JSON list. */}}
{{- define "pcapsule.hosts" -}}
{{- $service := printf "%s-hub" (include "pcapsule.fullname" .) -}}
{{- $ns := .Release.Namespace -}}
{{- $names := list (printf "%s.%s.svc" $service $ns) (printf "%s.%s.svc.cluster.local" $service $ns) (printf "%s.%s" $service $ns) $service -}}
{{- concat $names .Values.hub.hosts | uniq | toJson -}}
{{- end }}

{{- define "pcapsule.hubURL" -}}
https://{{ include "pcapsule.fullname" . }}-hub.{{ .Release.Namespace }}.svc:8898
{{- end }}

{{/* Class and size of the claim, by either of their names. */}}
{{- define "pcapsule.storageClass" -}}
{{- with .Values.tap.snapshots -}}{{ .storageClass | default .local.storageClass }}{{- end -}}
{{- end }}

{{- define "pcapsule.storageSize" -}}
{{- with .Values.tap.snapshots -}}{{ .storageSize | default .local.storageSize | default "20Gi" }}{{- end -}}
{{- end }}

{{/* The volume of the hub: bucket, claim (existing or ours), or none. */}}
{{- define "pcapsule.storeKind" -}}
{{- if .Values.store.s3.bucket -}}bucket
{{- else if or .Values.store.existingClaim (include "pcapsule.storageClass" .) -}}claim
{{- else -}}none
{{- end -}}
{{- end }}

{{- define "pcapsule.claim" -}}
{{ .Values.store.existingClaim | default (printf "%s-snapshots" (include "pcapsule.fullname" .)) }}
{{- end }}

{{/* The Secret with the bucket's credentials; empty when there is none. */}}
{{- define "pcapsule.storeSecret" -}}
{{- with .Values.store.s3 -}}
{{- if .existingSecret -}}{{ .existingSecret }}
{{- else if .accessKeyId -}}{{ include "pcapsule.fullname" $ }}-store
{{- end -}}
{{- end -}}
{{- end }}

{{- define "pcapsule.tlsSecret" -}}
{{- if eq .Values.tls.mode "secret" -}}{{ .Values.tls.existingSecret }}
{{- else -}}{{ include "pcapsule.fullname" . }}-hub-tls
{{- end -}}
{{- end }}

{{- define "pcapsule.keySecret" -}}
{{ .Values.signingKey.existingSecret | default (printf "%s-signing-key" (include "pcapsule.fullname" .)) }}
{{- end }}

{{/* The key's name in that Secret. */}}
{{- define "pcapsule.keyName" -}}
{{- with .Values.signingKey -}}{{ ternary .existingSecretKey "key" (ne .existingSecret "") }}{{- end -}}
{{- end }}

{{/*
A value of a Secret of the release's namespace, as the API server has it, decoded; empty
when there is none, or no API server: (list $ secret key).
*/}}
{{- define "pcapsule.stored" -}}
{{- $root := index . 0 -}}
{{- $secret := lookup "v1" "Secret" $root.Release.Namespace (index . 1) -}}
{{- if and $secret $secret.data -}}{{ get $secret.data (index . 2) | b64dec }}{{- end -}}
{{- end }}

{{/*
Certificates: sets $.Values.made.tls to {ca, caKey, caExpires, cert, key, names, expires},
once, since each time would make others. Those that the chart made before are kept while
they have the right names and a year to go. The authority stays when they are renewed, so
that agents need not hear of another; its key is in the Secret and in no pod.
*/}}
{{- define "pcapsule.tls" -}}
{{- if not .Values.made -}}
{{- include "pcapsule.validate" . -}}
{{- $tls := dict "ca" .Values.tls.ca -}}
{{- $secret := include "pcapsule.tlsSecret" . -}}
{{- if ne .Values.tls.mode "chart" -}}
  {{- if not $tls.ca -}}
    {{- $_ := set $tls "ca" (include "pcapsule.stored" (list . $secret "ca.crt")) -}}
  {{- end -}}
  {{- if not $tls.ca -}}
    {{- fail (printf "tls.ca is needed with tls.mode=%s: agents and people know the hub by it, and Secret %s/%s with ca.crt is not there (yet). Give the issuer's certificate: --set-file tls.ca=ca.crt" .Values.tls.mode .Release.Namespace $secret) -}}
  {{- end -}}
{{- else -}}
  {{- $hosts := include "pcapsule.hosts" . | fromJsonArray -}}
  {{- $names := $hosts | join "," -}}
  {{- $old := lookup "v1" "Secret" .Release.Namespace $secret | default dict -}}
  {{- $data := get $old "data" | default dict -}}
  {{- $notes := dig "metadata" "annotations" dict $old -}}
  {{- $day := 86400 -}}
  {{- $now := now | unixEpoch | int64 -}}
  {{- $days := 3650 -}}
  {{- $caDays := 10950 -}}
  {{- $expires := get $notes "pcapsule/expires" | default "0" | int64 -}}
  {{- $caExpires := get $notes "pcapsule/ca-expires" | default "0" | int64 -}}
  {{- if and (eq (get $notes "pcapsule/names") $names) (gt $expires (add $now (mul 365 $day))) -}}
    {{- range $to, $from := dict "ca" "ca.crt" "caKey" "ca.key" "cert" "tls.crt" "key" "tls.key" -}}
      {{- $_ := set $tls $to (get $data $from | b64dec) -}}
    {{- end -}}
  {{- else -}}
    {{- $ca := dict -}}
    {{- if and (hasKey $data "ca.key") (gt $caExpires (add $now (mul $days $day))) -}}
      {{- $ca = buildCustomCert (get $data "ca.crt") (get $data "ca.key") -}}
    {{- else -}}
      {{- $ca = genCAWithKey (printf "pcapsule hub of %s/%s" .Release.Namespace .Release.Name) $caDays (genPrivateKey "ecdsa") -}}
      {{- $caExpires = add $now (mul $caDays $day) -}}
    {{- end -}}
    {{- $cert := genSignedCertWithKey (first $hosts | trunc 64) (list "127.0.0.1" "::1") (append $hosts "localhost") $days $ca (genPrivateKey "ecdsa") -}}
    {{- $expires = add $now (mul $days $day) -}}
    {{- $tls = merge (dict "ca" $ca.Cert "caKey" $ca.Key "cert" $cert.Cert "key" $cert.Key) $tls -}}
  {{- end -}}
  {{- $tls = merge (dict "names" $names "expires" (toString $expires) "caExpires" (toString $caExpires)) $tls -}}
{{- end -}}
{{- $_ := set .Values "made" (dict "tls" $tls) -}}
{{- end -}}
{{- end }}

{{/* The authority's certificate. */}}
{{- define "pcapsule.ca" -}}
{{- include "pcapsule.tls" . -}}
{{ .Values.made.tls.ca | trim }}
{{- end }}

{{/* Security of containers that need nothing of their node. */}}
{{- define "pcapsule.restricted" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{- define "pcapsule.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}
