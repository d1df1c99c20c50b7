// Package qemutests holds the tests that boot real virtual machines on a
// private virtual network and install real systems on them with the real
// programs. They need root, two cores and about ten minutes:
//
//	make test-qemu
//	make test-qemu-all   real systems, and disks of all kinds, which takes longer
//
// Environment: HUCK_TIME_SCALE multiplies every deadline, HUCK_TEST_ARTIFACTS
// is the folder for consoles, packet captures and logs of failed tests,
// HUCK_CACHE keeps the Debian disk and Debian's kernel, and REQUIRE_TOOLS=1 fails
// tests that lack something instead of skipping them.
package qemutests
