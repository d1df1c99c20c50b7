# One target a job; `make help` lists them. Everything that a target needs is
# installed first (build/bootstrap.sh); results are in build/out/.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.ONESHELL:
MAKEFLAGS += --no-builtin-rules --no-print-directory
export PATH := $(shell build/bootstrap.sh --go-path):$(PATH)
export CGO_ENABLED ?= 0

FUZZTIME ?= 60s
# All but what boots virtual machines, and the checks of the tree itself.
UNIT = $$(go list ./... | grep -vE '/qemu-tests|^huck/build$$')

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | column -t -s '|'

.PHONY: demo
demo: deps ## image two virtual machines from a real Debian disk and watch it
	go run ./qemu-tests/demo

.PHONY: build
build: deps ## the programs, the appliance's kernel and initramfs, in build/out/
	go run ./build all
	go build -trimpath -o build/out/ ./imager ./bootserver

.PHONY: uki
uki: deps ## the netboot folder with its UKI signed: SB_KEY=key.pem SB_CERT=cert.pem; APPEND="words" for its command line
	go run ./build netboot

.PHONY: usb iso
usb: iso ## the same file: written to a stick as it is, it is one
iso: deps ## build/out/huck.iso, stick and CD in one; IMAGE=file.huck DISK=only THEN=reboot UNATTENDED=1 to install it offline
	go run ./build medium $(if $(UNATTENDED),--unattended)

.PHONY: test
test: deps ## all tests; needs root
	REQUIRE_TOOLS=1 $(MAKE) check test-unit test-qemu

.PHONY: check
check: deps ## gofmt, vet, staticcheck, import directions
	REQUIRE_TOOLS=1 go test -count=1 ./build

.PHONY: test-unit
test-unit: deps-unit ## tests without virtual machines; as root also those in network namespaces
	go test -timeout 10m $(UNIT)

.PHONY: test-race
test-race: deps-unit ## the same under the race detector
	CGO_ENABLED=1 go test -race -timeout 25m $(UNIT)

.PHONY: test-qemu
test-qemu: deps ## tests that boot virtual machines; needs root
	go run ./build netboot
	go test -count=1 -p 1 -timeout 30m -v -skip '^TestRare' ./qemu-tests/...

.PHONY: test-rare
test-rare: deps ## the ways into a machine that differ little from those in test-qemu
	go test -count=1 -p 1 -timeout 30m -v -run '^TestRare' ./qemu-tests

.PHONY: test-qemu-all
test-qemu-all: deps ## real systems (LVM and XFS, Btrfs with subvolumes) through capture and install, booted, and all kinds of disks; twelve minutes
	go run ./build netboot
	go vet -tags slow ./qemu-tests
	REQUIRE_TOOLS=1 go test -count=1 -tags slow -run '^Test(OS|Devices)' -timeout 90m -v ./qemu-tests

.PHONY: test-all
test-all: test test-rare test-qemu-all test-race fuzz ## make test, rare ways in, real systems, the race detector, FUZZTIME (60s) of every fuzz target

.PHONY: fuzz
fuzz: deps-unit ## FUZZTIME (60s) of every fuzz target
	for pkg in $$(go list ./...); do
	  for target in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do
	    echo "$$pkg $$target"
	    go test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x $$pkg
	  done
	done

.PHONY: bench-boot
bench-boot: deps ## how long each part of a boot takes by every way in, and the appliance's sizes
	mkdir -p build/out
	go run ./qemu-tests/bench --json build/out/bench-boot.json

.PHONY: bench-cast
bench-cast: deps-bench ## multicast beside udpcast and uftp in network namespaces; 40 minutes, needs root
	mkdir -p build/out
	go run ./imager/bench cast --json build/out/bench-cast.json

.PHONY: bench-image
bench-image: deps-bench ## capture and install beside partclone, zstd and dd; 3 minutes, 10 GB in the temporary folder
	mkdir -p build/out
	go run ./imager/bench image --json build/out/bench-image.json

.PHONY: soak-cast
soak-cast: deps-bench ## 30 minutes of installations under random faults; needs root
	go run ./imager/bench soak --minutes 30

.PHONY: sim-cast
sim-cast: deps-unit ## simulate up to 5000 receivers, write imager/cast/SIMULATION.md
	go run ./imager/cast/sim

.PHONY: deps deps-unit deps-bench
deps:
	@build/bootstrap.sh all >/dev/null
deps-unit:
	@build/bootstrap.sh go unit >/dev/null
deps-bench:
	@build/bootstrap.sh go bench >/dev/null

.PHONY: clean
clean: ## remove build/out/
	rm -rf build/out
