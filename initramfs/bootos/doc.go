// Package bootos finds the system that is installed on a disk the way its own
// boot loader would, through Boot Loader Specification entries or grub.cfg, and
// starts it with kexec: its kernel, its initrds, its command line, nothing
// added and nothing left out.
//
// Filesystems are looked into where a boot loader would look: in partitions, in
// logical volumes that are linear and whole on one partition, for which
// device-mapper makes read-only devices, and below the subvolumes of Btrfs.
//
// Only the given disk is looked at. A boot loader's "search" by UUID or label
// could otherwise find another disk with an old copy of the same system.
package bootos
