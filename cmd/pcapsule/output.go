package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/urfave/cli/v2"

	"pcapsule/internal/api"
)

func outputFlag() cli.Flag {
	return &cli.StringFlag{
		Name: "output", Aliases: []string{"o"}, Value: "table", Usage: "`FORMAT`: table for people, json for programs",
		Action: func(_ *cli.Context, v string) error {
			if v != "table" && v != "json" {
				return usagef("-o %q: want table or json", v)
			}
			return nil
		},
	}
}

func wantsJSON(c *cli.Context) bool { return c.String("output") == "json" }

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// writeTable writes rows in aligned columns, the first row being the heading.
func writeTable(w io.Writer, rows ...[]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, r := range rows {
		for i := range r {
			r[i] = oneLine(r[i])
		}
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	return t.Flush()
}

// writeSnapshots writes a table with the columns that have something to say.
func writeSnapshots(w io.Writer, list ...api.Snapshot) error {
	rows := [][]string{{"NAME", "SIZE", "PACKETS", "START", "END", "STATUS", "CREATED", "NODES"}}
	judged := slices.ContainsFunc(list, func(s api.Snapshot) bool { return s.Trusted != nil })
	if judged {
		rows[0] = append(rows[0], "SIGNER")
	}
	owned := slices.ContainsFunc(list, func(s api.Snapshot) bool { return s.Owner != "" })
	if owned {
		rows[0] = append(rows[0], "AGE", "OWNER")
	}
	for _, s := range list {
		row := []string{
			cmp.Or(s.Name, s.ID), size(s.Size), humanize.Comma(int64(s.Records)), stamp(s.Start), stamp(s.End), s.Status, stamp(s.Created),
			strings.Join(s.Nodes, ","),
		}
		if judged {
			row = append(row, signerState(s))
		}
		if owned {
			row = append(row, roundSpan(time.Since(s.Created)), cmp.Or(s.Owner, "-")+clientState(s))
		}
		rows = append(rows, row)
	}
	return writeTable(w, rows...)
}

// clientState says of an import through a hub whether its client lives.
func clientState(s api.Snapshot) string {
	if s.Heard.IsZero() {
		return ""
	}
	return fmt.Sprintf("; its client was heard %s ago, and the hub ends the import at %s unless it hears more", roundSpan(time.Since(s.Heard)), stamp(s.Expires))
}

// signerState says in short whether who signed a snapshot is trusted.
func signerState(s api.Snapshot) string {
	switch {
	case s.Trusted == nil:
		return "-"
	case *s.Trusted:
		return "trusted"
	}
	return "NOT TRUSTED " + s.Signer
}

// size is a number of bytes for people.
func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// count is "1 chunk", "2 chunks".
func count[N int | int64](n N, what string) string { return english.Plural(int(n), what, "") }

// stamp is a time for people, which --from and --to take back.
func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format(time.RFC3339)
}

// exact is stamp with milliseconds.
func exact(t time.Time) string { return t.Local().Format("2006-01-02T15:04:05.000Z07:00") }

// oneLine makes text from outside a cell of a table, or one line of a message.
func oneLine(s string) string {
	return printable(strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		return r
	}, strings.TrimSpace(s)))
}
