// Names prints the metrics that the alerts and the dashboard in a folder need, one on a line.
package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/metallb/cloud-provider-metallb/release/alerts"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: names FOLDER, which has alerts.yaml and dashboard.json")
		os.Exit(2)
	}
	names, err := alerts.Needed(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "names:", err)
		os.Exit(1)
	}
	fmt.Println(strings.Join(names, "\n"))
}
