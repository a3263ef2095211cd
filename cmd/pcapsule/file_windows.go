package main

import "os"

// isDescriptor: Windows has no names for open files.
func isDescriptor(string) bool { return false }

func openDescriptor(path string) (*os.File, error) { return os.OpenFile(path, os.O_WRONLY, 0) }
