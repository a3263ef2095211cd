package main

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"
)

// The scripts ask the program itself what can follow, by the library's hidden
// flag, so they never go out of date.
var completionScripts = map[string]string{
	"bash": `_pcapsule() {
  local cur words
  cur="${COMP_WORDS[COMP_CWORD]}"
  words=("${COMP_WORDS[@]:0:COMP_CWORD}")
  if [[ "$cur" == -* ]]; then words+=("$cur"); fi
  COMPREPLY=($(compgen -o default -W "$("${words[@]}" --generate-bash-completion 2>/dev/null)" -- "$cur"))
}
complete -o bashdefault -o default -F _pcapsule pcapsule
`,
	"zsh": `#compdef pcapsule
_pcapsule() {
  local -a opts
  local cur="${words[-1]}"
  if [[ "$cur" == -* ]]; then
    opts=("${(@f)$(${words[@]:0:#words[@]-1} ${cur} --generate-bash-completion 2>/dev/null)}")
  else
    opts=("${(@f)$(${words[@]:0:#words[@]-1} --generate-bash-completion 2>/dev/null)}")
  fi
  if [[ -n "${opts[1]}" ]]; then compadd -- "${opts[@]%%:*}"; else _files; fi
}
compdef _pcapsule pcapsule
`,
	"fish": `function __pcapsule
  set -l words (commandline -opc)
  set -l cur (commandline -ct)
  if string match -q -- '-*' $cur; set words $words $cur; end
  $words --generate-bash-completion 2>/dev/null
end
complete -c pcapsule -a '(__pcapsule)'
`,
}

func completionCommand() *cli.Command {
	return &cli.Command{
		Name:      "completion",
		Usage:     "print a completion script for your shell",
		UsageText: "pcapsule completion bash|zsh|fish",
		Description: `   source <(pcapsule completion bash)
   pcapsule completion zsh > "${fpath[1]}/_pcapsule"
   pcapsule completion fish > ~/.config/fish/completions/pcapsule.fish`,
		BashComplete: func(c *cli.Context) {
			for _, s := range []string{"bash", "zsh", "fish"} {
				fmt.Fprintln(c.App.Writer, s)
			}
		},
		Action: func(c *cli.Context) error {
			shell, err := argument(c, "shell")
			if err != nil {
				return err
			}
			script, ok := completionScripts[shell]
			if !ok {
				return usagef("no completion for %q: there is bash, zsh and fish", shell)
			}
			_, err = fmt.Fprint(c.App.Writer, script)
			return err
		},
	}
}

// completeSnapshots offers the command's flags and the names of the snapshots
// that can be reached quickly.
func completeSnapshots(c *cli.Context) {
	cli.DefaultCompleteWithFlags(c.Command)(c)
	ctx, cancel := context.WithTimeout(c.Context, time.Second)
	defer cancel()
	c.Context = withoutLearning(ctx)
	snaps, _, err := listSnapshots(c)
	if err != nil {
		return
	}
	for _, s := range snaps {
		fmt.Fprintln(c.App.Writer, s.Name)
	}
}
