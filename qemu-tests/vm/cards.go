package vm

import "fmt"

// deadCards returns QEMU's arguments for network cards that lead nowhere: each
// is alone on a hub.
func (m *Machine) deadCards() (args []string) {
	for i := range m.cfg.DeadCards {
		args = append(args,
			"-netdev", fmt.Sprintf("hubport,id=dead%d,hubid=%d", i, 100+i),
			"-device", fmt.Sprintf("virtio-net-pci,netdev=dead%d,mac=52:54:00:68:76:%02x,romfile=", i, m.number+i))
	}
	return args
}
