// Package inventory finds out what a machine knows of itself.
package inventory

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/u-root/u-root/pkg/smbios"

	"huck/imager/api"
)

// Roots are the folders that are asked; tests give others than the zero value,
// which is the machine itself.
type Roots struct {
	// Sys and Proc are empty for /sys and /proc.
	Sys, Proc string
}

// Collect gathers what is known without disks, which take their time to
// appear, and addresses. What cannot be read is logged and left empty.
func (r Roots) Collect(log *slog.Logger) api.Inventory {
	if r.Sys == "" {
		r.Sys = "/sys"
	}
	if r.Proc == "" {
		r.Proc = "/proc"
	}
	inv := api.Inventory{CPUs: runtime.NumCPU(), Firmware: "bios"}
	if _, err := os.Stat(filepath.Join(r.Sys, "firmware/efi")); err == nil {
		inv.Firmware = "uefi"
	}
	var err error
	if inv.Memory, err = r.memory(); err != nil {
		log.Warn("no memory size", "err", err)
	}
	if inv.BootID, err = r.bootID(); err != nil {
		log.Warn("no boot id", "err", err)
	}
	if err := r.system(&inv); err != nil {
		log.Warn("no SMBIOS", "err", err)
	}
	return inv
}

// system fills in what SMBIOS type 1 tells.
func (r Roots) system(inv *api.Inventory) error {
	dir := filepath.Join(r.Sys, "firmware/dmi/tables")
	entry, err := os.ReadFile(filepath.Join(dir, "smbios_entry_point"))
	if err != nil {
		return fmt.Errorf("inventory: %w", err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "DMI"))
	if err != nil {
		return fmt.Errorf("inventory: %w", err)
	}
	info, err := smbios.ParseInfo(entry, data)
	if err != nil {
		return fmt.Errorf("inventory: SMBIOS tables: %v", err)
	}
	sys, err := info.GetSystemInfo()
	if err != nil {
		return fmt.Errorf("inventory: SMBIOS type 1: %v", err)
	}
	inv.Manufacturer = told(sys.Manufacturer)
	inv.Product = told(sys.ProductName)
	inv.Serial = told(sys.SerialNumber)
	// All zeros is "not set", all ones "not present" (DSP0134 7.2.1); the package has words for both.
	if u := strings.ToLower(sys.UUID.String()); !strings.HasPrefix(u, "not ") {
		inv.SystemUUID = u
	}
	return nil
}

// told drops what stands for nothing.
func told(s string) string {
	s = strings.TrimSpace(s)
	switch strings.ToLower(s) {
	case "not specified", "to be filled by o.e.m.", "default string", "system serial number", "none", "0", "n/a":
		return ""
	}
	return s
}

func (r Roots) memory() (int64, error) {
	f, err := os.Open(filepath.Join(r.Proc, "meminfo"))
	if err != nil {
		return 0, fmt.Errorf("inventory: %w", err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "MemTotal:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 53)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("inventory: %s has no MemTotal", f.Name())
}

// bootID is the kernel's: new at every start, the same if init starts anew.
func (r Roots) bootID() (string, error) {
	b, err := os.ReadFile(filepath.Join(r.Proc, "sys/kernel/random/boot_id"))
	if err != nil {
		return "", fmt.Errorf("inventory: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
