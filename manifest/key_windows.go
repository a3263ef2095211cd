package manifest

import "io/fs"

// ownedByRoot is false: Windows has no root.
func ownedByRoot(fs.FileInfo) bool { return false }
