//go:build !linux

package packets

import "syscall"

// bindEnd is of use only where packets are captured.
func bindEnd(string, string, syscall.RawConn) (End, error) { return End{}, errNotBound }
