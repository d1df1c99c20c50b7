package tree

// Filling has it told how far disk is filled with what is in dir.
func Filling(disk, dir string, tell func(step string, done, total int64)) (end func(complete bool)) {
	return (&maker{cfg: Config{Progress: tell}, disk: disk}).filling(dir)
}

// CopyAttributes is exported to be tested with files that have changed meanwhile.
var CopyAttributes = copyAttributes
