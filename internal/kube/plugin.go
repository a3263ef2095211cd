package kube

import (
	"fmt"
	"strings"
)

// gettingCredentials is how the Kubernetes library begins the error of a request
// that was not sent, since the credential plugin of the kubeconfig gave nothing to
// send. It has no type.
const gettingCredentials = "getting credentials: "

// PluginFailure says for people how the credential plugin of a kubeconfig failed,
// when err is of that: then nobody has asked the cluster anything. Otherwise it
// returns nil.
func PluginFailure(c *Cluster, err error) error {
	if err == nil || c.Config.ExecProvider == nil {
		return nil
	}
	_, why, ok := strings.Cut(err.Error(), gettingCredentials)
	if !ok {
		return nil
	}
	why, _, _ = strings.Cut(why, "\n") // the rest explains what plugins are
	command := c.Config.ExecProvider.Command
	hint := "run it by hand to see why, or log in anew as you do for kubectl"
	if h := strings.Join(strings.Fields(c.Config.ExecProvider.InstallHint), " "); h != "" && strings.Contains(why, "not found") {
		hint = h
	}
	return fmt.Errorf("the credential plugin %s, which the kubeconfig has for %s, failed: %s: %s", command, c, strings.TrimPrefix(why, "exec: "), hint)
}
