{{/*
What the schema cannot say: values that contradict each other. Each message says what to
do about it.
*/}}
{{- define "pcapsule.validate" -}}
{{- /* Not kubeVersion in Chart.yaml, which refuses clusters that somebody built without a version. */ -}}
{{- with .Capabilities.KubeVersion -}}
{{- if and (eq .Major "1") (lt (regexFind "^[0-9]+" .Minor | int) 25) -}}
{{- fail (printf "pcapsule needs Kubernetes 1.25 or newer, and this is %s (for `helm template` say --kube-version)" .Version) -}}
{{- end -}}
{{- end -}}
{{- with .Values.tap -}}
{{- if .bpfOverride -}}
{{- fail "tap.bpfOverride is not supported yet: the filter language comes with a later version. Choose pods with tap.regex, tap.namespaces and tap.excludedNamespaces, and leave tap.bpfOverride empty" -}}
{{- end -}}
{{- with .snapshots -}}
{{- if and .storageClass .local.storageClass (ne .storageClass .local.storageClass) -}}
{{- fail (printf "tap.snapshots.storageClass is %s and tap.snapshots.local.storageClass is %s: they are two names of one value, give one of them" .storageClass .local.storageClass) -}}
{{- end -}}
{{- if and .storageSize .local.storageSize (ne .storageSize .local.storageSize) -}}
{{- fail (printf "tap.snapshots.storageSize is %s and tap.snapshots.local.storageSize is %s: they are two names of one value, give one of them" .storageSize .local.storageSize) -}}
{{- end -}}
{{- end -}}
{{- range $n := .namespaces -}}
{{- if has $n $.Values.tap.excludedNamespaces -}}
{{- fail (printf "namespace %s is in tap.namespaces and in tap.excludedNamespaces: take it out of one of them" $n) -}}
{{- end -}}
{{- end -}}
{{- $_ := mustRegexMatch .regex "" -}}
{{- end -}}

{{- $class := include "pcapsule.storageClass" . -}}
{{- with .Values.store -}}
{{- if and .s3.bucket $class -}}
{{- fail (printf "store.s3.bucket is %s and tap.snapshots.storageClass is %s: snapshots go to one place, give one of them" .s3.bucket $class) -}}
{{- end -}}
{{- if and .s3.bucket .existingClaim -}}
{{- fail (printf "store.s3.bucket is %s and store.existingClaim is %s: snapshots go to one place, give one of them" .s3.bucket .existingClaim) -}}
{{- end -}}
{{- if and .existingClaim $class -}}
{{- fail (printf "store.existingClaim is %s and tap.snapshots.storageClass is %s: the class is for a new claim, leave it empty" .existingClaim $class) -}}
{{- end -}}
{{- if not .s3.bucket -}}
{{- range $name := list "prefix" "endpoint" "region" "ca" "existingSecret" "accessKeyId" "secretAccessKey" -}}
{{- if get $.Values.store.s3 $name -}}
{{- fail (printf "store.s3.%s is given, but store.s3.bucket is not: name the bucket" $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and .s3.existingSecret (or .s3.accessKeyId .s3.secretAccessKey) -}}
{{- fail "store.s3.existingSecret is given together with store.s3.accessKeyId or store.s3.secretAccessKey: give either the Secret or both keys" -}}
{{- end -}}
{{- if ne (empty .s3.accessKeyId) (empty .s3.secretAccessKey) -}}
{{- fail "store.s3.accessKeyId and store.s3.secretAccessKey go together: give both, or store.s3.existingSecret, or neither for the identity of the service account" -}}
{{- end -}}
{{- end -}}

{{- $memory := dig "limits" "memory" "" (.Values.agent.resources | default dict) -}}
{{- if $memory -}}
{{- $bytes := include "pcapsule.bytes" $memory | int64 -}}
{{- if and (gt $bytes 0) (lt $bytes 67108864) -}}
{{- fail (printf "agent.resources.limits.memory is %v: an agent needs 64Mi, or it is killed, again and again, and records in between at best; give it more" $memory) -}}
{{- end -}}
{{- end -}}

{{- with .Values.tls -}}
{{- if and (eq .mode "secret") (not .existingSecret) -}}
{{- fail "tls.mode=secret needs tls.existingSecret: the name of a Secret with tls.crt and tls.key" -}}
{{- end -}}
{{- if and (ne .mode "secret") .existingSecret -}}
{{- fail (printf "tls.existingSecret is given, but tls.mode is %s: set tls.mode=secret" .mode) -}}
{{- end -}}
{{- if and (eq .mode "chart") .ca -}}
{{- fail "tls.ca is given, but tls.mode is chart, which makes an authority of its own: set tls.mode=certManager or tls.mode=secret" -}}
{{- end -}}
{{- if and (eq .mode "certManager") (not .certManager.issuerRef.name) -}}
{{- fail "tls.mode=certManager needs tls.certManager.issuerRef.name: which issuer signs the hub's certificate?" -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Bytes of a quantity of Kubernetes, as in 512Mi, 1G or 128974848; 0 of what is none. */}}
{{- define "pcapsule.bytes" -}}
{{- $text := toString . -}}
{{- if kindIs "float64" . -}}{{- $text = printf "%.0f" . -}}{{- end -}}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?" $text -}}
{{- $unit := trimPrefix $number $text -}}
{{- $factors := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- if and $number (hasKey $factors $unit) -}}{{- mulf (float64 $number) (get $factors $unit) | floor | int64 -}}{{- else -}}0{{- end -}}
{{- end }}

{{/* What the cluster has to say about the claim. Nothing, where only templates are rendered. */}}
{{- define "pcapsule.checkClaim" -}}
{{- include "pcapsule.validate" . -}}
{{- $class := include "pcapsule.storageClass" . -}}
{{- $claim := printf "%s-snapshots" (include "pcapsule.fullname" .) -}}
{{- $old := lookup "v1" "PersistentVolumeClaim" .Release.Namespace $claim -}}
{{- if $old -}}
{{- $oldClass := $old.spec.storageClassName | default "" -}}
{{- if eq (include "pcapsule.storeKind" .) "none" -}}
{{- fail (printf "claim %s/%s is there and may hold an archive, but these values give snapshots no place at all: give tap.snapshots.storageClass=%s, as it was (or another place; or delete the claim)" .Release.Namespace $claim $oldClass) -}}
{{- else if and $class (ne $oldClass $class) -}}
{{- fail (printf "claim %s/%s is there with storage class %q, and a claim's class cannot be changed to %q: give the class it has, or move the archive (docs/kubernetes.md says how)" .Release.Namespace $claim $oldClass $class) -}}
{{- end -}}
{{- else if and $class (lookup "v1" "Namespace" "" "kube-system") (not (lookup "storage.k8s.io/v1" "StorageClass" "" $class)) -}}
{{- /* Volumes that were made by hand may have a class that nobody defined. */ -}}
{{- $volumes := 0 -}}
{{- range (lookup "v1" "PersistentVolume" "" "").items -}}
{{- if eq (.spec.storageClassName | default "") $class -}}{{- $volumes = add1 $volumes -}}{{- end -}}
{{- end -}}
{{- if not $volumes -}}
{{- $known := list -}}
{{- range (lookup "storage.k8s.io/v1" "StorageClass" "" "").items -}}{{- $known = append $known .metadata.name -}}{{- end -}}
{{- fail (printf "storage class %s does not exist in this cluster, so the claim for snapshots would wait for ever: give one of: %s" $class ($known | join ", " | default "(there are none)")) -}}
{{- end -}}
{{- end -}}
{{- end }}

{{/*
Another release's agents with the same folder on the nodes: each ring has one owner. What
the cluster says; nothing, where only templates are rendered, and agents refuse it then.
Releases whose node selectors exclude each other share no node.
*/}}
{{- define "pcapsule.checkRing" -}}
{{- $root := . -}}
{{- $path := clean .Values.agent.ring.hostPath -}}
{{- $mine := .Values.agent.nodeSelector | default dict -}}
{{- range (lookup "apps/v1" "DaemonSet" "" "").items -}}
{{- $labels := .metadata.labels | default dict -}}
{{- $agents := and (eq (get $labels "app.kubernetes.io/name") "pcapsule") (eq (get $labels "app.kubernetes.io/component") "agent") -}}
{{- $other := printf "%s/%s" .metadata.namespace (get $labels "app.kubernetes.io/instance") -}}
{{- if and $agents (ne $other (printf "%s/%s" $root.Release.Namespace $root.Release.Name)) -}}
{{- $theirs := .spec.template.spec.nodeSelector | default dict -}}
{{- $apart := false -}}
{{- range $key, $value := $mine -}}
{{- if and (hasKey $theirs $key) (ne (get $theirs $key) $value) -}}{{- $apart = true -}}{{- end -}}
{{- end -}}
{{- range .spec.template.spec.volumes -}}
{{- if and .hostPath (not $apart) (eq (clean .hostPath.path) $path) -}}
{{- fail (printf "release %s has its ring in %s on the same nodes: set agent.ring.hostPath to a folder of this release's own, for example %s-%s" $other $path $path $root.Release.Name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end }}
