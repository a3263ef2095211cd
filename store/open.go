package store

import "fmt"

// Describe names a store for people.
func Describe(s Store) string {
	if d, ok := s.(fmt.Stringer); ok {
		return d.String()
	}
	return fmt.Sprintf("%T", s)
}
