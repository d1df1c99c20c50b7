package personalise

// ParseUsers is parseUsers: the home of each user.
func ParseUsers(text string) map[string]string {
	homes := map[string]string{}
	for name, u := range parseUsers(text) {
		homes[name] = u.home
	}
	return homes
}

// Hosts is hosts.
func Hosts(old, names string) string { return hosts(old, names) }
