package site

import (
	"context"
	"errors"
	"fmt"
	"os"

	"huck/qemu-tests/vm"
)

// AddDirect plugs in a machine with a blank disk of size bytes that starts the
// appliance's kernel itself, without firmware that would use the network. What
// else there is to it is in cfg.
func (s *Site) AddDirect(ctx context.Context, cfg vm.Config, size int64) (*vm.Machine, error) {
	disk := s.Path(cfg.Name + ".raw")
	f, err := os.Create(disk)
	if err == nil {
		err = errors.Join(f.Truncate(size), f.Close())
	}
	if err != nil {
		return nil, fmt.Errorf("site: make disk: %v", err)
	}
	cfg.Network, cfg.Disks, cfg.LogDir = s.Network, []string{disk}, s.logs
	cfg.Kernel, cfg.Initrd = s.Programs.Kernel(), s.Programs.Initramfs()
	cfg.Append = "console=tty0 console=ttyS0,115200 " + vm.KernelArgs + " " + cfg.Append
	m, err := vm.New(ctx, len(s.machines)+1, cfg)
	if err != nil {
		return nil, err
	}
	s.machines = append(s.machines, m)
	return m, nil
}
