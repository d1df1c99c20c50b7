package site

import (
	"context"

	"huck/qemu-tests/vm"
)

// AddDirect plugs in a machine with a blank disk of size bytes that starts the
// appliance's kernel itself, without firmware that would use the network. What
// else there is to it is in cfg.
func (s *Site) AddDirect(ctx context.Context, cfg vm.Config, size int64) (*vm.Machine, error) {
	disk, err := s.Disk(cfg.Name, size)
	if err != nil {
		return nil, err
	}
	cfg.Network, cfg.Disks = s.Network, []string{disk}
	cfg.Kernel, cfg.Initrd = s.Programs.Kernel(), s.Programs.Initramfs()
	cfg.Append = "console=tty0 console=ttyS0,115200 " + vm.KernelArgs + " " + cfg.Append
	return s.Plug(ctx, cfg)
}
