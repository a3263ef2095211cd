// Command image writes the image of pcapsule without Docker: a tar as `docker
// save` makes it, which `docker load` takes, and `ctr -n k8s.io images import`.
//
//	go run ./scripts/image -binary bin/pcapsule -o pcapsule.tar -tag pcapsule:dev
//
// The same inputs make the same bytes. What is in the image stands in the
// Dockerfile as well; a test holds the two together.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	var in inputs
	flag.StringVar(&in.binary, "binary", "bin/pcapsule", "pcapsule for Linux, statically linked")
	flag.StringVar(&in.roots, "roots", defaultRoots, "certificates of public authorities (PEM), by which S3 is known")
	flag.StringVar(&in.tag, "tag", "pcapsule:dev", "name of the image")
	flag.StringVar(&in.version, "version", "dev", "version for the image's label")
	out := flag.String("o", "bin/pcapsule.tar", "write the image to this file")
	flag.Parse()
	if err := run(in, *out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(in inputs, out string, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unknown argument %q: see -help", args[0])
	}
	img, err := newImage(in)
	if err != nil {
		return err
	}
	data, err := img.archive(in.tag)
	if err != nil {
		return err
	}
	// All or nothing, for who reads while this runs.
	temp, err := os.CreateTemp(filepath.Dir(out), ".image-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	_, err = temp.Write(data)
	if cerr := temp.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Chmod(temp.Name(), 0o644)
	}
	if err == nil {
		err = os.Rename(temp.Name(), out)
	}
	if err != nil {
		return fmt.Errorf("write the image: %w", err)
	}
	fmt.Printf("%s  %s  %d MB\n", out, in.tag, len(data)>>20)
	return nil
}
