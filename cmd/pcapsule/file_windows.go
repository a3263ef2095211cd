package main

import (
	"io/fs"
	"os"
)

// isDescriptor: Windows has no names for open files.
func isDescriptor(string) bool { return false }

func openDescriptor(path string) (*os.File, error) { return os.OpenFile(path, os.O_WRONLY, 0) }

// planted: Windows has no folders like /tmp.
func planted(fs.FileInfo, fs.FileInfo) bool { return false }
