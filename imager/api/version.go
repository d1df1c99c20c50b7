package api

import "runtime/debug"

// Version is what --version prints of a program: the version of its module or,
// built from a checkout, the time and the commit of that, with "+dirty" if
// something there had been changed. "(devel)" if none of it is known.
func Version() string {
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return "(devel)"
	}
	return b.Main.Version
}
