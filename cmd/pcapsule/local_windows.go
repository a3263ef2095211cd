package main

import (
	"io/fs"
	"os"
)

// On Windows, folders of a user are that user's by default.

func openNoLink(name string) (*os.File, error) { return os.Open(name) }

func ownerOf(string) (int, bool) { return 0, false }

func checkFolder(dir string, _ int) error {
	_, err := os.Stat(dir)
	return err
}

func checkOwner(fs.FileInfo, int) error { return nil }
