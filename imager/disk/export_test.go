package disk

// InUseUnder is InUse for the block device MAJOR:MINOR with /sys, /proc and
// /dev under root.
func InUseUnder(root, number string) (string, error) { return system{root}.inUse(number) }

// PartitionsUnder is Partitions likewise.
func PartitionsUnder(root, number string) ([]Partition, error) {
	return system{root}.partitions(number)
}

// DiscardError is what Discard makes of the kernel's error.
func DiscardError(err error) error { return discardError(err) }
