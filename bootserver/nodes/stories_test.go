package nodes_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"huck/bootserver/nodes"
	"huck/imager/api"
)

// story is a machine, its server and its operator.
type story struct {
	t     *testing.T
	store *kv
	r     *nodes.Registry
	boot  string
	told  []string // the server's own words
}

func (s *story) restart() {
	r, err := nodes.Open(s.t.Context(), s.store, func(e api.Event) { s.told = append(s.told, e.Message) })
	if err != nil {
		s.t.Fatal(err)
	}
	s.r = r
}

// tell makes the things happen that the words name. A word with = is what must
// be so then.
//
//	boot:X           the machine starts, and registers
//	once, every:THEN, un         an operator assigns something to it, or nothing
//	join, part       he puts it into a group, or takes it out
//	gonce, gevery, gun           he assigns something to the group
//	maintain, work   he begins and ends its maintenance
//	model:START      he says how its model starts the system on its disk
//	done, fail:STEP, leave:STEP  the node reports; todisk is a leave:reboot whose
//	                 firmware was told to start the disk
//	wait:TIME        time passes
//	restart          the boot server is killed and started
//	ask=A            the node asks and must get A, followed by :DISKRULE for boot
//	                 or :THEN for install
//	script=S         its boot ROM asks and must get appliance or disk
//	told=TEXT        the server has said that, with _ for blanks
//	state=TEXT       the list says so
func (s *story) tell(words string) {
	for i, word := range strings.Fields(words) {
		verb, arg, _ := strings.Cut(word, ":")
		if what, want, ok := strings.Cut(word, "="); ok && !strings.Contains(what, ":") {
			verb = what
			if got := s.ask(verb, want); got != want {
				s.t.Fatalf("word %d of %q: %s=%s, want %s", i, words, verb, got, want)
			}
			continue
		}
		if err := s.do(verb, arg); err != nil {
			s.t.Fatalf("word %d of %q, %s: %v", i, words, word, err)
		}
	}
}

func (s *story) ask(what, want string) string {
	want = strings.ReplaceAll(want, "_", " ")
	switch what {
	case "ask":
		a := action(s.t, s.r)
		switch {
		case a.Action == api.ActionBoot && a.Then == api.ThenKexec:
			return string(a.Action) + ":" + a.Disk
		case a.Action == api.ActionBoot:
			return string(a.Action) + ":" + string(a.Then)
		case a.Action == api.ActionInstall && strings.Contains(want, ":"):
			return string(a.Action) + ":" + string(a.Then)
		case a.Why != "":
			return string(a.Action) + ":why"
		}
		return string(a.Action)
	case "script":
		own, err := s.r.AtFirmware(s.t.Context(), mac1)
		if err != nil {
			s.t.Fatal(err)
		}
		return map[bool]string{true: "disk", false: "appliance"}[own]
	case "told":
		if all := strings.Join(s.told, "\n"); !strings.Contains(all, want) {
			return all
		}
	case "state":
		for _, n := range s.r.List() {
			if !strings.Contains(n.State, want) {
				return n.State
			}
		}
	}
	return strings.ReplaceAll(want, " ", "_")
}

func (s *story) do(verb, arg string) error {
	ctx := s.t.Context()
	assign := func(name string, everyBoot bool, then api.Then) error {
		_, err := s.r.Assign(ctx, name, api.AssignRequest{Ref: "debian", Disk: "only", EveryBoot: everyBoot, Then: then}, resolved)
		return err
	}
	report := func(e api.Event) error {
		e.Boot = s.boot
		return s.r.Report(ctx, node1, []api.Event{e})
	}
	var err error
	switch verb {
	case "boot":
		s.boot = arg
		register(s.t, s.r, inventory(arg))
	case "once":
		err = assign(node1, false, api.ThenKexec)
	case "every":
		err = assign(node1, true, api.Then(arg))
	case "un":
		err = s.r.Unassign(ctx, node1)
	case "join", "part":
		_, err = s.r.Group(ctx, "lab", api.GroupRequest{Nodes: []string{mac1}, Remove: verb == "part"})
	case "gonce":
		err = assign("lab", false, api.ThenKexec)
	case "gevery":
		err = assign("lab", true, api.ThenKexec)
	case "gun":
		err = s.r.Unassign(ctx, "lab")
	case "maintain", "work":
		err = s.r.Maintain(ctx, node1, verb == "maintain")
	case "model":
		err = s.r.SetModel(ctx, node1, api.Then(arg))
	case "done":
		installed(s.t, s.r, s.boot)
	case "fail":
		err = report(api.Event{Type: api.EventStep, Step: arg, State: api.StepFailed, Error: "broken pipe", Message: api.GivenUp})
	case "todisk":
		err = report(api.Event{Type: api.EventStep, Step: "reboot", State: api.StepLeaving, Message: api.ToDisk})
	case "leave":
		err = report(api.Event{Type: api.EventStep, Step: arg, State: api.StepLeaving})
	case "wait":
		var d time.Duration
		d, err = time.ParseDuration(arg)
		<-time.After(d) // of the bubble's clock
	case "restart":
		s.restart()
	default:
		err = errors.New("no such word")
	}
	return err
}

func tellAll(t *testing.T, stories map[string]string) {
	for name, words := range stories {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &story{t: t, store: newKV()}
				s.restart()
				s.tell(words)
			})
		})
	}
}

func TestAssignments(t *testing.T) {
	tellAll(t, map[string]string{
		"unknown machine waits":            "boot:1 ask=wait restart ask=wait boot:2 ask=wait",
		"once":                             "boot:1 ask=wait once ask=install ask=install done ask=wait boot:2 ask=boot:only boot:3 ask=boot:only",
		"once, never reported":             "boot:1 once ask=install boot:2 ask=install restart ask=install done boot:3 ask=boot:only",
		"never seen, named by its MAC":     "once boot:1 ask=install done boot:2 ask=boot:only",
		"every boot":                       "boot:1 every:poweroff ask=install done ask=wait boot:2 ask=install done ask=wait restart ask=wait boot:3 ask=install",
		"every boot, reboot is no loop":    "boot:1 every:reboot ask=install done ask=wait boot:2 ask=boot:only boot:3 ask=install done boot:4 ask=boot:only restart ask=boot:only",
		"every boot, failed then rebooted": "boot:1 every:reboot ask=install boot:2 ask=install done boot:3 ask=boot:only",
		"every boot, kexec":                "boot:1 every:kexec ask=install done boot:2 ask=install",
		"unassigned, never installed":      "boot:1 once un ask=wait boot:2 ask=wait",
		"unassigned, installed":            "boot:1 once ask=install done un ask=wait boot:2 ask=boot:only",
		"unassigned in mid-installation":   "boot:1 once ask=install un ask=wait boot:2 ask=wait",
		"unassigned too late":              "boot:1 once ask=install un done ask=wait boot:2 ask=boot:only",
		"done without having been told":    "boot:1 once done ask=install",
		"reported twice, assigned between": "boot:1 once ask=install done once done ask=install",
		"server killed in between":         "boot:1 once ask=install restart ask=install done restart ask=wait boot:2 ask=boot:only",
	})
}

// TestGroupStories: a node's own assignment beats its group's.
func TestGroupStories(t *testing.T) {
	tellAll(t, map[string]string{
		"group assigned":              "boot:1 join ask=wait gonce ask=install done boot:2 ask=boot:only restart ask=boot:only",
		"joins later":                 "join gonce part boot:1 ask=wait join ask=install",
		"its own beats the group's":   "boot:1 join gevery ask=install done once ask=install done boot:2 ask=boot:only gevery ask=boot:only un ask=install",
		"own first, group unassigned": "boot:1 once join gonce ask=install done gun boot:2 ask=boot:only",
		"group unassigned":            "boot:1 join gonce ask=install gun ask=wait",
		"group unassigned, installed": "boot:1 join gonce ask=install done gun boot:2 ask=boot:only",
		"leaves, installed":           "boot:1 join gonce ask=install done part boot:2 ask=boot:only",
		"leaves in mid-installation":  "boot:1 join gonce ask=install part ask=wait boot:2 ask=wait",
		"joins twice":                 "boot:1 join gonce ask=install done join boot:2 ask=boot:only",
		"group assigned anew":         "boot:1 join gonce ask=install done gonce ask=install done boot:2 ask=boot:only",
		"never seen":                  "join gonce boot:1 ask=install",
	})
}

// TestLoops: whatever fails, the node stops in the end and says so.
func TestLoops(t *testing.T) {
	tellAll(t, map[string]string{
		"three boots never heard of": "boot:1 once ask=install boot:2 ask=install boot:3 ask=install ask=install boot:4 ask=wait:why " +
			"state=stopped:_3_installations_in_a_row_did_not_complete_(the_last:_nothing_was_heard_of_it) restart ask=wait:why boot:5 ask=wait:why told=stopped:_3",
		"an operator's word goes on": "boot:1 once ask=install boot:2 ask=install boot:3 ask=install boot:4 ask=wait:why once ask=install done boot:5 ask=boot:only",
		"the cause is named": "boot:1 every:kexec ask=install fail:receive boot:2 ask=install fail:receive boot:3 ask=install fail:receive boot:4 ask=wait:why " +
			"state=(the_last:_receive:_broken_pipe)",
		"one that works counts anew": "boot:1 every:kexec ask=install boot:2 ask=install boot:3 ask=install done boot:4 ask=install boot:5 ask=install boot:6 ask=install boot:7 ask=wait:why",
		"the group's":                "boot:1 join gonce ask=install boot:2 ask=install boot:3 ask=install boot:4 ask=wait:why gonce ask=install",
		"server killed in between":   "boot:1 once ask=install restart boot:2 ask=install restart boot:3 ask=install restart boot:4 ask=wait:why",
		"boots that do not ask":      "boot:1 once ask=install boot:2 boot:3 boot:4 boot:5 ask=install",
	})
}

// TestRoundAndRound: a system that is installed again and again, with success,
// and restarts the machine each time, ends in waiting too.
func TestRoundAndRound(t *testing.T) {
	const lost = " wait:1m script=appliance boot:x%d ask=install:reboot done leave:reboot wait:5s script=disk"
	words := "boot:1 every:kexec ask=install:kexec done leave:kexec wait:1m boot:2 ask=install:kexec done leave:kexec wait:1m boot:3 ask=install:reboot done leave:reboot wait:5s script=disk"
	for i := range 4 {
		words += fmt.Sprintf(lost, i)
	}
	tellAll(t, map[string]string{
		"stops":       words + " wait:1m script=appliance boot:y ask=wait:why state=came_back_here restart ask=wait:why boot:z ask=wait:why",
		"goes on":     words + " wait:1m script=appliance boot:y ask=wait:why wait:11m boot:z ask=install",
		"is told to":  words + " wait:1m script=appliance boot:y ask=wait:why every:kexec ask=install",
		"time passed": words + " wait:11m script=appliance boot:y ask=install",
	})
}

// TestKexecLost: a machine that kexec leads back to us is rebooted instead.
func TestKexecLost(t *testing.T) {
	const twice = "boot:1 once ask=install:kexec done leave:kexec wait:1m script=appliance boot:2 ask=boot:only leave:kexec wait:30s script="
	tellAll(t, map[string]string{
		"learnt by the boot script": twice + "disk told=back_30s_after_its_kexec told=machines_of_model " +
			"state=left_to_its_own_disk restart wait:1h script=disk",
		"learnt at registration": "boot:1 once ask=install done leave:kexec wait:1m boot:2 ask=boot:only leave:kexec wait:1m boot:3 ask=boot:reboot",
		"learnt, then installed": twice + "disk once boot:4 ask=install:reboot done leave:reboot script=disk",
		"every boot":             twice + "disk every:kexec script=appliance boot:4 ask=install:reboot done leave:reboot wait:20s script=disk wait:1h script=appliance boot:5 ask=install:reboot",
		"an operator knows":      "boot:1 once ask=install done leave:kexec model:reboot script=disk model:kexec script=appliance boot:2 ask=boot:only",
		"was up":                 "boot:1 once ask=install done leave:kexec wait:11m boot:2 ask=boot:only leave:kexec wait:1m boot:3 ask=boot:only leave:kexec wait:10m boot:4 ask=boot:only",
		"once is not twice":      "boot:1 once ask=install done leave:kexec wait:1m script=appliance boot:2 ask=boot:only",
		"switched on, not back":  "boot:1 once ask=install done leave:kexec wait:1m boot:2 ask=boot:only wait:20m boot:3 ask=boot:only leave:kexec wait:1m boot:4 ask=boot:only",
		"a reboot of ours":       "boot:1 every:reboot ask=install done leave:reboot wait:1m boot:2 ask=boot:only leave:kexec wait:1m boot:3 ask=install:reboot",
		"no kernel on the disk":  "boot:1 once ask=install done fail:kexec leave:reboot wait:20s script=disk",
		"no kernel, no script":   "boot:1 once ask=install done leave:poweroff boot:2 ask=boot:only fail:kexec ask=boot:reboot",
		"new image, kernel":      "boot:1 once ask=install done fail:kexec once ask=install:kexec done leave:kexec boot:2 ask=boot:only",
		"firmware never does it": "boot:1 once ask=install done model:reboot boot:2 ask=boot:reboot leave:reboot wait:1m boot:3 leave:reboot boot:4 leave:reboot boot:5 leave:reboot boot:6 ask=boot:reboot leave:reboot boot:7 " +
			"ask=wait:why state=stopped:_5_starts_of_the_system restart ask=wait:why wait:1h boot:8 ask=boot:reboot",
		"UEFI, every boot": "boot:1 every:reboot ask=install done todisk wait:1h boot:2 ask=install done todisk wait:11m boot:3 ask=install",
		"UEFI, once":       "boot:1 once model:reboot boot:2 ask=install:reboot done todisk wait:1h boot:3 ask=boot:reboot todisk wait:1h boot:4 ask=boot:reboot",
		"UEFI that is deaf": "boot:1 every:reboot ask=install done todisk wait:1m boot:2 ask=install done todisk wait:1m boot:3 ask=boot:only leave:kexec " +
			"wait:1h boot:4 ask=install",
		"UEFI goes on to the network": twice + "disk wait:12s boot:3 ask=boot:reboot todisk wait:1m script=disk wait:12s boot:4 ask=boot:reboot todisk wait:1m script=disk wait:12s " +
			"boot:5 ask=boot:reboot todisk wait:1m script=disk wait:12s boot:6 ask=boot:reboot todisk wait:1m script=disk wait:12s boot:7 todisk wait:1m script=appliance boot:8 ask=wait:why",
		"not for a new image": twice + "disk once script=appliance",
	})
}

func TestMaintenance(t *testing.T) {
	tellAll(t, map[string]string{
		"at once":             "boot:1 maintain ask=shell state=registered work ask=wait",
		"stays":               "boot:1 once ask=install done boot:2 ask=boot:only maintain ask=shell restart boot:3 ask=shell script=appliance work boot:4 ask=boot:only",
		"ends in a boot":      "boot:1 once ask=install done boot:2 maintain ask=shell work ask=boot:only boot:3 maintain work ask=boot:only",
		"ends in its boot":    "boot:1 once ask=install done maintain boot:2 ask=shell work ask=boot:only",
		"ends, every boot":    "boot:1 every:kexec ask=install done maintain boot:2 ask=shell work ask=install",
		"ends, not installed": "boot:1 once maintain boot:2 ask=shell work ask=install",
		"assigned meanwhile":  "boot:1 maintain once ask=shell work ask=install",
		"done stays done":     "boot:1 every:wait ask=install done maintain ask=shell work ask=wait",
		"no script shortcut":  "boot:1 once ask=install done model:reboot maintain script=appliance boot:2 ask=shell",
	})
}

// TestModelIsShared: what one machine taught holds for all of its model, and no other.
func TestModelIsShared(t *testing.T) {
	r := open(t, newKV())
	for i, product := range []string{"One", "One", "Two"} {
		inv := machine([]string{m1, m2, m3}[i], "model:"+product)
		inv.BootID = fmt.Sprint(i)
		register(t, r, inv)
	}
	first := strings.ReplaceAll(m1, ":", "-")
	if err := r.SetModel(t.Context(), first, api.ThenReboot); err != nil {
		t.Fatal(err)
	}
	var got []api.Then
	for _, n := range r.List() {
		got = append(got, n.Start)
	}
	if len(got) != 3 || got[0] != api.ThenReboot || got[1] != api.ThenReboot || got[2] != api.ThenKexec {
		t.Errorf("started by %v", got)
	}
	if err := r.SetModel(t.Context(), first, api.ThenPoweroff); !errors.Is(err, nodes.ErrInvalid) {
		t.Errorf("a model that is switched off: %v", err)
	}
}
