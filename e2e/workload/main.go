// Command workload is what pods of the tests run: one static program that serves
// and asks, fails, and runs out of memory, as its arguments say.
//
//	workload serve                  HTTP on :8080 (see handler)
//	workload ask PAUSE URL…         GET each URL, over and over, PAUSE between rounds
//	workload oom                    take memory until the kernel ends it
//	workload exit CODE              end
//	workload pause                  do nothing
package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "workload:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	switch {
	case len(args) == 1 && args[0] == "pause":
		<-ctx.Done()
		return nil
	case len(args) == 1 && args[0] == "serve":
		return serve(ctx)
	case len(args) > 2 && args[0] == "ask":
		return ask(ctx, args[1], args[2:])
	case len(args) == 1 && args[0] == "oom":
		return exhaust(ctx)
	case len(args) == 2 && args[0] == "exit":
		code, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		os.Exit(code)
	}
	return fmt.Errorf("usage: workload serve | ask PAUSE URL… | oom | exit CODE | pause")
}

// handler answers with the pod's name, and /noise/N with N bytes that do not
// compress, /get?URL with what is there, /lookup?NAME with the addresses that DNS
// has.
func handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		name, _ := os.Hostname()
		fmt.Fprintf(w, "%s serves %s\n", name, r.URL.Path)
	})
	mux.HandleFunc("/noise/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.PathValue("n"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = io.CopyN(w, rand.Reader, n)
	})
	mux.HandleFunc("/get", func(w http.ResponseWriter, r *http.Request) {
		if err := get(r.Context(), r.URL.RawQuery, w); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
	})
	mux.HandleFunc("/lookup", func(w http.ResponseWriter, r *http.Request) {
		addrs, err := net.DefaultResolver.LookupHost(r.Context(), r.URL.RawQuery)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprintln(w, strings.Join(addrs, " "))
	})
	return mux
}

func serve(ctx context.Context) error {
	server := &http.Server{Addr: ":8080", Handler: handler(), ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { _ = server.Close() })
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		return err
	}
	return nil
}

// ask makes each request on a connection of its own, with a look-up before it.
func ask(ctx context.Context, pause string, urls []string) error {
	every, err := time.ParseDuration(pause)
	if err != nil {
		return err
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		failed := 0
		for _, url := range urls {
			if err := get(ctx, url, io.Discard); err != nil && ctx.Err() == nil {
				fmt.Println("GET", url, "failed:", err)
				failed++
			}
		}
		if failed == 0 {
			fmt.Println("all answered")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

var client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{
	DisableKeepAlives: true,
	DialContext:       (&net.Dialer{Timeout: 2 * time.Second}).DialContext,
}}

func get(ctx context.Context, url string, to io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(to, resp.Body)
	return err
}

// exhaust takes and touches 8 MiB at a time.
func exhaust(ctx context.Context) error {
	var held [][]byte
	for range 1 << 17 {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		block := make([]byte, 8<<20)
		for i := 0; i < len(block); i += 4096 {
			block[i] = 1
		}
		held = append(held, block)
	}
	return fmt.Errorf("%d blocks were not too many", len(held))
}
