package importer

// ownFolder is never asked: nothing tells there whether a process has died.
func ownFolder(string) bool { return false }
