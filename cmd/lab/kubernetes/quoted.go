package kubernetes

import (
	"strings"
	"unicode"
)

// Quoted are the words of a command as they can be pasted into a shell.
func Quoted(words ...string) string {
	var quoted []string
	for _, word := range words {
		if word == "" || strings.ContainsFunc(word, func(c rune) bool {
			return !unicode.IsLetter(c) && !unicode.IsDigit(c) && !strings.ContainsRune("-_=/.,:@%+", c)
		}) {
			word = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
		quoted = append(quoted, word)
	}
	return strings.Join(quoted, " ")
}
