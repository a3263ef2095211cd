package main

import (
	"context"
	"errors"
	"fmt"

	"pcapsule/archive"
	"pcapsule/chunker"
	"pcapsule/internal/api"
	"pcapsule/pcapgen"
)

// Exit codes, as the help text lists them.
const (
	exitOK           = 0
	exitFailed       = 1
	exitUsage        = 2
	exitVerification = 3
	exitPartial      = 4
)

// A codeError carries an exit code other than exitFailed. With no err the
// command has said already what there was to say.
type codeError struct {
	code int
	err  error
}

func (e *codeError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *codeError) Unwrap() error { return e.err }

func usagef(format string, args ...any) error {
	return &codeError{exitUsage, fmt.Errorf(format, args...)}
}

// exitCode tells what the shell is told of err.
func exitCode(err error) int {
	var ce *codeError
	if errors.As(err, &ce) {
		return ce.code
	}
	if errors.Is(err, api.ErrImpostor) {
		return exitVerification
	}
	var ae *api.Error
	if errors.As(err, &ae) && (ae.Code == api.CodeInvalid || ae.Code == api.CodeMixedLinks || ae.Code == api.CodeUnknownNode || ae.Code == api.CodeUnknownName) {
		return exitUsage
	}
	if errors.As(err, &ae) && (ae.Code == api.CodeUntrusted || ae.Code == api.CodeDamaged) ||
		errors.Is(err, archive.ErrDamaged) || errors.Is(err, chunker.ErrDamaged) {
		return exitVerification
	}
	var (
		node  *pcapgen.UnknownNodeError
		iface *pcapgen.UnknownInterfaceError
		links *pcapgen.MixedLinkTypesError
		name  *pcapgen.UnknownNameError
	)
	if errors.As(err, &node) || errors.As(err, &iface) || errors.As(err, &links) || errors.As(err, &name) || errors.Is(err, pcapgen.ErrWindow) {
		return exitUsage
	}
	return exitFailed
}

// errorLine is err for a person: one line.
func errorLine(ctx context.Context, err error) string {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return "interrupted"
	}
	return oneLine(err.Error())
}
