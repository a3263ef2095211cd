package charts_test

import (
	"strings"
	"testing"
)

func TestOldCluster(t *testing.T) {
	const want = "pcapsule needs Kubernetes 1.25 or newer, and this is v1.24.9"
	if _, err := template(t, nil, "--kube-version", "1.24.9"); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %s", err, want)
	}
	render(t, nil, "--kube-version", "1.25.0")
}

// Wrong values are refused before anything is installed, with a message that
// names the value.
func TestRefused(t *testing.T) {
	ca := authority(t)
	for name, tc := range map[string]struct {
		v    values
		want string
	}{
		"a typo":           {values{"tap.snapshot.storageClass": "gp2"}, "at '/tap': additional properties 'snapshot' not allowed"},
		"a typo, deep":     {values{"tap.capture.raw.storagesize": "1Gi"}, "at '/tap/capture/raw': additional properties 'storagesize' not allowed"},
		"a typo, top":      {values{"stores.s3.bucket": "x"}, "additional properties 'stores' not allowed"},
		"Kubeshark's only": {values{"tap.proxy.host": "0.0.0.0"}, "at '/tap': additional properties 'proxy' not allowed"},
		"a size":           {values{"tap.snapshots.storageSize": "1000GB"}, "at '/tap/snapshots/storageSize': '1000GB' does not match"},
		"a bare size":      {values{"tap.capture.raw.storageSize": "5"}, "at '/tap/capture/raw/storageSize': got number, want string"},
		"a word":           {values{"tap.capture.raw.enabled": "maybe"}, "at '/tap/capture/raw/enabled': got string, want boolean"},
		"an URL":           {values{"store.s3.bucket": "s3://forensics/x"}, "at '/store/s3/bucket'"},
		"an endpoint":      {values{"store.s3.endpoint": "minio:9000"}, "at '/store/s3/endpoint'"},
		"not PEM":          {values{"store.s3.ca": "ca.pem"}, "at '/store/s3/ca'"},
		"the whole disk":   {values{"agent.ring.hostPath": "/"}, "at '/agent/ring/hostPath'"},
		"a share":          {values{"agent.ring.fair": "150%"}, "at '/agent/ring/fair'"},
		"no share":         {values{"agent.ring.fair": "0%"}, "at '/agent/ring/fair'"},
		"a depth":          {values{"agent.ring.depthWarn": "ten minutes"}, "at '/agent/ring/depthWarn'"},
		"an age":           {values{"agent.chunk.age": "1 minute"}, "at '/agent/chunk/age'"},
		"a policy":         {values{"image.pullPolicy": "always"}, "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'"},
		"a namespace":      {values{"tap.namespaces": "{Prod}"}, "at '/tap/namespaces/0'"},
		"a subject":        {values{"access.viewers[0].name": "x"}, "at '/access/viewers/0': missing property 'kind'"},
		"a regex":          {values{"tap.regex": "api-("}, "missing closing )"},
		"bpfOverride":      {values{"tap.bpfOverride": "net 0.0.0.0/0"}, "tap.bpfOverride is not supported yet: the filter language comes with a later version. Choose pods with tap.regex"},
		"no memory":        {values{"agent.resources.limits.memory": "63Mi"}, "agent.resources.limits.memory is 63Mi: an agent needs 64Mi"},
		"bytes":            {values{"agent.resources.limits.memory": "50000000"}, "an agent needs 64Mi"},
		"a unit":           {values{"agent.resources.limits.memory": "0.05G"}, "agent.resources.limits.memory is 0.05G: an agent needs 64Mi"},
		"two classes": {
			values{"tap.snapshots.storageClass": "gp2", "tap.snapshots.local.storageClass": "gp3"},
			"tap.snapshots.storageClass is gp2 and tap.snapshots.local.storageClass is gp3: they are two names of one value, give one of them",
		},
		"two sizes": {
			values{"tap.snapshots.storageSize": "1Gi", "tap.snapshots.local.storageSize": "2Gi"},
			"tap.snapshots.storageSize is 1Gi and tap.snapshots.local.storageSize is 2Gi: they are two names of one value, give one of them",
		},
		"in and out":            {values{"tap.namespaces": "{a,b}", "tap.excludedNamespaces": "{b}"}, "namespace b is in tap.namespaces and in tap.excludedNamespaces"},
		"bucket and class":      {values{"store.s3.bucket": "forensics", "tap.snapshots.local.storageClass": "gp2"}, "snapshots go to one place"},
		"bucket and claim":      {values{"store.s3.bucket": "forensics", "store.existingClaim": "archive"}, "snapshots go to one place"},
		"claim and class":       {values{"store.existingClaim": "archive", "tap.snapshots.storageClass": "gp2"}, "the class is for a new claim, leave it empty"},
		"no bucket":             {values{"store.s3.region": "eu-central-1"}, "store.s3.region is given, but store.s3.bucket is not: name the bucket"},
		"two credentials":       {values{"store.s3.bucket": "forensics", "store.s3.existingSecret": "x", "store.s3.accessKeyId": "a", "store.s3.secretAccessKey": "b"}, "give either the Secret or both keys"},
		"half a key":            {values{"store.s3.bucket": "forensics", "store.s3.accessKeyId": "a"}, "store.s3.accessKeyId and store.s3.secretAccessKey go together"},
		"no certificate":        {values{"tls.mode": "secret"}, "tls.mode=secret needs tls.existingSecret"},
		"an unused certificate": {values{"tls.existingSecret": "x"}, "set tls.mode=secret"},
		"an unused authority":   {values{"tls.ca": ca}, "tls.mode is chart, which makes an authority of its own"},
		"no issuer":             {values{"tls.mode": "certManager", "tls.ca": ca}, "tls.mode=certManager needs tls.certManager.issuerRef.name"},
		"no authority":          {values{"tls.mode": "certManager", "tls.certManager.issuerRef.name": "x"}, "tls.ca is needed with tls.mode=certManager"},
		"two hubs' budget":      {values{"podDisruptionBudget.maxUnavailable": "2"}, "at '/podDisruptionBudget/maxUnavailable'"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := refused(t, tc.v); !strings.Contains(got, tc.want) {
				t.Errorf("refused with\n%s\nwant\n%s", got, tc.want)
			}
		})
	}
}
