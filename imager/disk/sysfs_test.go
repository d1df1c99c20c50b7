package disk_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"huck/imager/api"
	"huck/imager/disk"
)

// tree writes files, by path, under a new folder. A content "-> X" makes a
// symbolic link to X.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if to, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(to, path)
		} else {
			err = os.WriteFile(path, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// machine describes block devices: by their folder under /sys/devices, the
// attributes in it. A disk with an attribute under device/ is hardware.
func machine(t *testing.T, devices map[string]map[string]string) string {
	t.Helper()
	files := map[string]string{"sys/block/none": "", "proc/self/mountinfo": "", "proc/swaps": ""}
	delete(files, "sys/block/none")
	for dir, attrs := range devices {
		files["sys/block/"+filepath.Base(dir)] = "-> ../devices/" + dir
		for a, v := range attrs {
			files["sys/devices/"+dir+"/"+a] = v
		}
	}
	return tree(t, files)
}

func TestList(t *testing.T) {
	root := machine(t, map[string]map[string]string{
		"pci0000:00/0000:00:1d.0/0000:02:00.0/nvme/nvme0/nvme0n1": {
			"size": "1000215216\n", "queue/logical_block_size": "512\n", "queue/rotational": "0\n", "removable": "0\n", "ro": "0\n", "hidden": "0\n",
			"wwid": "eui.0025385b71b0c0a1\n", "device/model": "Samsung SSD 970 EVO     \n", "device/serial": "S466NX0K123456      \n",
		},
		"pci0000:00/0000:00:1d.0/0000:02:00.0/nvme/nvme0/nvme0c0n1": {"size": "1000215216\n", "hidden": "1\n", "device/model": "x"},
		"pci0000:00/0000:00:1f.2/ata1/host0/target0:0:0/0:0:0:0/block/sda": {
			"size": "7814037168\n", "queue/logical_block_size": "4096\n", "queue/rotational": "1\n",
			"device/wwid": "naa.50014ee2b5d1a2c3\n", "device/model": "WDC WD40EFRX-68N\n", "device/vpd_pg80": "\x00\x80\x00\x14     WD-WCC7K0123456",
		},
		"pci0000:00/0000:00:05.0/virtio2/block/vda": {"size": "131072\n", "queue/logical_block_size": "512\n", "serial": "root-disk-1", "device/vendor": "0x1af4\n", "queue/rotational": "1\n"},
		"pci0000:00/0000:00:06.0/virtio3/host2/target2:0:0/2:0:0:0/block/sdb": {
			"size": "2048\n", "queue/logical_block_size": "512\n", "ro": "1\n", "device/model": "QEMU HARDDISK   \n", "device/wwid": "t10.ATA     QEMU HARDDISK\n",
		},
		"pci0000:00/0000:03:00.0/host4/port-4:0/end_device-4:0/target4:0:0/4:0:0:0/block/sdc": {"size": "16\n", "queue/logical_block_size": "512\n", "device/model": "ST600MM0006\n"},
		"pci0000:00/0000:00:14.0/usb1/1-3/1-3:1.0/host6/target6:0:0/6:0:0:0/block/sdd": {
			"size": "60062500\n", "queue/logical_block_size": "512\n", "removable": "1\n", "device/model": "Ultra Fit       \n",
			"../../../../../../idVendor": "0781\n", "../../../../../../serial": "4C530001\n",
		},
		"platform/mmc_host/mmc0/mmc0:0001/block/mmcblk0":       {"size": "30535680\n", "queue/logical_block_size": "512\n", "device/name": "DF4016\n", "device/serial": "0x01234567\n"},
		"platform/mmc_host/mmc0/mmc0:0001/block/mmcblk0boot0":  {"size": "8192\n", "device/name": "DF4016\n"},
		"pci0000:00/0000:04:00.0/host9/cciss/block/cciss!c0d0": {"size": "16\n", "queue/logical_block_size": "512\n", "device/model": "LOGICAL VOLUME"},
		"pci0000:00/0000:00:1f.2/ata2/host1/block/sr0":         {"size": "2097151\n", "device/model": "QEMU DVD-ROM"},
		"virtual/block/loop0":                                  {"size": "16\n"},
		"virtual/block/dm-0":                                   {"size": "16\n", "dm/name": "vg-root"},
		"virtual/block/md127":                                  {"size": "16\n"},
		"virtual/block/zram0":                                  {"size": "16\n"},
	})
	got, err := disk.ListUnder(root)
	if err != nil {
		t.Fatal(err)
	}
	want := []api.Disk{
		{Path: "/dev/cciss/c0d0", Size: 8192, SectorSize: 512, Model: "LOGICAL VOLUME"},
		{Path: "/dev/mmcblk0", Size: 30535680 * 512, SectorSize: 512, Model: "DF4016", Serial: "0x01234567", Transport: "mmc"},
		{Path: "/dev/nvme0n1", Size: 1000215216 * 512, SectorSize: 512, Model: "Samsung SSD 970 EVO", Serial: "S466NX0K123456", WWN: "eui.0025385b71b0c0a1", Transport: "nvme"},
		{Path: "/dev/sda", Size: 7814037168 * 512, SectorSize: 4096, Model: "WDC WD40EFRX-68N", Serial: "WD-WCC7K0123456", WWN: "0x50014ee2b5d1a2c3", Transport: "sata", Rotational: true},
		{Path: "/dev/sdb", Size: 1 << 20, SectorSize: 512, Model: "QEMU HARDDISK", Transport: "scsi", ReadOnly: true},
		{Path: "/dev/sdc", Size: 8192, SectorSize: 512, Model: "ST600MM0006", Transport: "sas"},
		{Path: "/dev/sdd", Size: 60062500 * 512, SectorSize: 512, Model: "Ultra Fit", Serial: "4C530001", Transport: "usb", Removable: true},
		{Path: "/dev/vda", Size: 64 << 20, SectorSize: 512, Serial: "root-disk-1", Transport: "virtio", Rotational: true},
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || !reflect.DeepEqual(got[i], want[i]) {
			t.Errorf("disk %d:\ngot  %+v\nwant %+v", i, got[i:min(i+1, len(got))], want[i:min(i+1, len(want))])
		}
	}
	if _, err := disk.ListUnder(t.TempDir()); err == nil {
		t.Error("no error without /sys")
	}
}

func TestComing(t *testing.T) {
	const dev = "sys/bus/usb/devices/"
	for name, c := range map[string]struct {
		files map[string]string
		want  bool
	}{
		"no USB":                             {map[string]string{"sys/block/x": ""}, false},
		"a keyboard":                         {map[string]string{dev + "1-1:1.0/bInterfaceClass": "03\n"}, false},
		"found":                              {map[string]string{dev + "1-1:1.0/bInterfaceClass": "08\n"}, true},
		"asked":                              {map[string]string{dev + "1-1:1.0/bInterfaceClass": "08\n", dev + "1-1:1.0/host2/target2:0:0/2:0:0:0/type": "0\n"}, true},
		"there":                              {map[string]string{dev + "1-1:1.0/bInterfaceClass": "08\n", dev + "1-1:1.0/host2/target2:0:0/2:0:0:0/block/sda/size": "8\n"}, false},
		"one of two":                         {map[string]string{dev + "1-1:1.0/bInterfaceClass": "08\n", dev + "1-1:1.0/host2/target2:0:0/2:0:0:0/block/sda/size": "8\n", dev + "2-1:1.0/bInterfaceClass": "08\n"}, true},
		"a device, not yet asked what it is": {map[string]string{dev + "1-1/idVendor": "1234\n"}, false},
	} {
		if got := disk.ComingUnder(tree(t, c.files)); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestListThisMachine only asks that it works and gives nodes that are there.
func TestListThisMachine(t *testing.T) {
	disks, err := disk.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		t.Logf("%+v", d)
		if d.SectorSize < 512 || d.Size < 0 || !strings.HasPrefix(d.Path, "/dev/") {
			t.Errorf("%+v", d)
		}
	}
}

// sda is a disk with three partitions; the third carries a volume group.
func sda(t *testing.T, files map[string]string) string {
	all := map[string]string{
		"sys/dev/block/8:0":               "-> ../../devices/pci/block/sda",
		"sys/dev/block/8:1":               "-> ../../devices/pci/block/sda/sda1",
		"sys/devices/pci/block/sda/dev":   "8:0\n",
		"sys/devices/virtual/dm-0/dev":    "254:0\n",
		"sys/devices/virtual/dm-0/size":   "1\n",
		"proc/self/mountinfo":             "22 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw\n",
		"dev/nvme0n1p1":                   "",
		"sys/devices/virtual/dm-0/slaves": "",
	}
	for i, start := range []string{"2048", "4096", "1000000"} {
		p := "sys/devices/pci/block/sda/sda" + string(rune('1'+i))
		all[p+"/partition"] = string(rune('1'+i)) + "\n"
		all[p+"/dev"] = "8:" + string(rune('1'+i)) + "\n"
		all[p+"/start"] = start + "\n"
		all[p+"/size"] = "2048\n"
		all["dev/sda"+string(rune('1'+i))] = ""
	}
	for name, content := range files {
		all[name] = content
	}
	return tree(t, all)
}

func TestInUse(t *testing.T) {
	holder := map[string]string{"sys/devices/pci/block/sda/sda3/holders/dm-0": "-> ../../../../../virtual/dm-0", "sys/devices/virtual/dm-0/dm/name": "vg-root\n"}
	for name, c := range map[string]struct {
		number string
		files  map[string]string
		want   string
	}{
		"free":            {"8:0", nil, ""},
		"mounted":         {"8:0", map[string]string{"proc/self/mountinfo": "30 22 8:0 / /mnt rw - ext4 /dev/sda rw\n"}, "/dev/sda is mounted on /mnt"},
		"its partition":   {"8:0", map[string]string{"proc/self/mountinfo": "30 22 8:2 / /mnt/a\\040b rw shared:1 - ext4 /dev/root rw\n"}, "/dev/sda2 is mounted on /mnt/a b"},
		"own partition":   {"8:1", map[string]string{"proc/self/mountinfo": "30 22 8:1 / /boot rw - vfat /dev/sda1 rw\n"}, "/dev/sda1 is mounted on /boot"},
		"other partition": {"8:1", map[string]string{"proc/self/mountinfo": "30 22 8:2 / /boot rw - vfat /dev/sda2 rw\n"}, ""},
		"number of its own": {"8:0", map[string]string{
			"proc/self/mountinfo": "30 22 0:44 / /data rw - btrfs /dev/disk/by-label/data rw\n", "dev/disk/by-label/data": "-> ../../sda2",
		}, "/dev/sda2 is mounted on /data"},
		"swap":     {"8:0", map[string]string{"proc/swaps": "Filename Type Size\n/dev/sda2 partition 1 0 -2\n"}, "/dev/sda2 is used as swap"},
		"no swap":  {"8:0", map[string]string{"proc/swaps": "Filename Type Size\n/dev/nvme0n1p2 partition 1 0 -2\n/swapfile file 1 0 -3\n"}, ""},
		"held":     {"8:0", holder, "/dev/sda3 is part of /dev/dm-0 (vg-root)"},
		"not held": {"8:1", holder, ""},
		"holder mounted": {"8:0", map[string]string{
			"sys/devices/pci/block/sda/sda3/holders/dm-0": "-> ../../../../../virtual/dm-0",
			"proc/self/mountinfo":                         "broken line\n30 22 254:0 / /srv rw - xfs /dev/mapper/vg-root rw\n",
		}, "/dev/dm-0 is mounted on /srv"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := disk.InUseUnder(sda(t, c.files), c.number)
			if err != nil || got != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
	if _, err := disk.InUseUnder(sda(t, nil), "9:9"); err == nil {
		t.Error("no error for a device that is not there")
	}
	if use, err := disk.InUse(filepath.Join(t.TempDir())); use != "" || err != nil {
		t.Errorf("a folder: %q, %v", use, err)
	}
}

func TestPartitions(t *testing.T) {
	got, err := disk.PartitionsUnder(sda(t, nil), "8:0")
	if err != nil {
		t.Fatal(err)
	}
	want := []disk.Partition{{1, "/dev/sda1", 1 << 20, 1 << 20}, {2, "/dev/sda2", 2 << 20, 1 << 20}, {3, "/dev/sda3", 512000000, 1 << 20}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	if _, err := disk.Partitions(t.TempDir()); err == nil {
		t.Error("no error for a folder")
	}
}
