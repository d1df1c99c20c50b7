package kernel

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

func TestReadFragments(t *testing.T) {
	tests := []struct {
		name  string
		files map[string]string
		want  string // settings, or part of the error
		fails bool
	}{
		{"kinds", map[string]string{"a.config": "# why\nCONFIG_A=y\n\n# CONFIG_B is not set\nCONFIG_C=\"x y=z\"\nCONFIG_D=64\nCONFIG_E=0x1f\n"},
			"CONFIG_A=y # CONFIG_B is not set CONFIG_C=\"x y=z\" CONFIG_D=64 CONFIG_E=0x1f", false},
		{"in name order", map[string]string{"b.config": "CONFIG_B=y", "a.config": "CONFIG_A=y", "c.txt": "CONFIG_C=y"}, "CONFIG_A=y CONFIG_B=y", false},
		{"twice", map[string]string{"a.config": "CONFIG_A=y\n", "b.config": "\n# CONFIG_A is not set\n"}, "b.config:2: CONFIG_A is set before, at a.config:1", true},
		{"twice alike", map[string]string{"a.config": "CONFIG_A=y\nCONFIG_A=y\n"}, "a.config:2: CONFIG_A is set before", true},
		{"a module", map[string]string{"a.config": "CONFIG_A=m\n"}, `a.config:1: "CONFIG_A=m" is neither`, true},
		{"a comment behind", map[string]string{"a.config": "CONFIG_A=y # why\n"}, `is neither`, true},
		{"off the wrong way", map[string]string{"a.config": "CONFIG_A=n\n"}, `is neither`, true},
		{"none", map[string]string{"README": "x"}, "no *.config", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			folder := fstest.MapFS{}
			for name, text := range tt.files {
				folder[name] = &fstest.MapFile{Data: []byte(text)}
			}
			settings, err := readFragments(folder)
			switch {
			case tt.fails && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q", err, tt.want)
			case !tt.fails && err != nil:
				t.Error(err)
			case !tt.fails && strings.ReplaceAll(strings.TrimSpace(merged(settings)), "\n", " ") != tt.want:
				t.Errorf("got %q, want %q", merged(settings), tt.want)
			}
		})
	}
}

func TestCheckSurvivors(t *testing.T) {
	const config = "CONFIG_ON=y\n# CONFIG_OFF is not set\nCONFIG_TEXT=\"a\"\nCONFIG_NUMBER=8\n"
	tests := []struct {
		name string
		want string // a fragment
		lost []string
	}{
		{"all there", "CONFIG_ON=y\n# CONFIG_OFF is not set\nCONFIG_TEXT=\"a\"\nCONFIG_NUMBER=8", nil},
		{"not offered, and not wanted", "# CONFIG_NOWHERE is not set", nil},
		{"off", "CONFIG_OFF=y", []string{"f:1: want CONFIG_OFF=y, got # CONFIG_OFF is not set"}},
		{"gone", "CONFIG_NOWHERE=y", []string{"f:1: want CONFIG_NOWHERE=y, got nothing"}},
		{"selected", "# CONFIG_ON is not set", []string{"want # CONFIG_ON is not set, got CONFIG_ON=y"}},
		{"another value", "CONFIG_NUMBER=9\nCONFIG_TEXT=\"b\"", []string{"CONFIG_NUMBER=9, got CONFIG_NUMBER=8", "CONFIG_TEXT=\"b\", got CONFIG_TEXT=\"a\""}},
		{"several", "CONFIG_Z=y\nCONFIG_ON=y\nCONFIG_A=y", []string{"2 settings", "CONFIG_A", "CONFIG_Z"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wanted, err := parseFragment("f", []byte(tt.want))
			if err != nil {
				t.Fatal(err)
			}
			err = checkSurvivors(wanted, []byte(config))
			if (err == nil) != (tt.lost == nil) {
				t.Fatalf("got %v, want %v", err, tt.lost)
			}
			for _, l := range tt.lost {
				if !strings.Contains(err.Error(), l) {
					t.Errorf("got %v, want %q in it", err, l)
				}
			}
		})
	}
}

// Every group of settings in our own fragments begins with the reason for it.
func TestOurFragmentsSayWhy(t *testing.T) {
	const most = 30 // lines under one reason
	folder := os.DirFS("../../kernel-config")
	if _, err := readFragments(folder); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("../../kernel-config")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".config") {
			continue
		}
		text, err := os.ReadFile("../../kernel-config/" + e.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range unreasoned(e.Name(), string(text), most) {
			t.Error(p)
		}
	}
}

// unreasoned finds settings that no comment stands above, or that are too far down under one to belong to it.
func unreasoned(name, text string, most int) []string {
	var problems []string
	since := most + 1
	n := 0
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSpace(line)
		_, isSetting, _ := parseLine(line)
		switch {
		case line == "":
			since = most + 1
		case isSetting:
			if since++; since > most {
				problems = append(problems, fmt.Sprintf("%s:%d: no reason given for %s", name, n, line))
			}
		default:
			since = 0
		}
	}
	return problems
}

func TestUnreasoned(t *testing.T) {
	tests := []struct {
		name, text string
		want       int
	}{
		{"reasoned", "# why\nCONFIG_A=y\nCONFIG_B=y\n", 0},
		{"bare", "CONFIG_A=y\n", 1},
		{"after a blank line", "# why\nCONFIG_A=y\n\nCONFIG_B=y\n", 1},
		{"off is no reason", "# CONFIG_A is not set\nCONFIG_B=y\n", 2},
		{"too many", "# why\nCONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y\n", 1},
	}
	for _, tt := range tests {
		if got := unreasoned("f", tt.text, 2); len(got) != tt.want {
			t.Errorf("%s: got %v, want %d", tt.name, got, tt.want)
		}
	}
}
