// Package tap writes the Test Anything Protocol, version 13
// (https://testanything.org/tap-version-13-specification.html).
//
// The public validation suite imports github.com/mndrix/tap-go, which no distribution
// packages. This is our own writing of the few calls the suite makes; it decides
// nothing: what passes and what fails is the suite's.
package tap

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
)

// T is one stream of results.
type T struct {
	next   *int
	todo   bool
	Writer io.Writer
}

// New begins a stream on the standard output.
func New() *T {
	one := 1
	return &T{next: &one, Writer: os.Stdout}
}

// Header begins the output; count is how many results come, 0 if that is not known yet.
func (t *T) Header(count int) {
	fmt.Fprintln(t.Writer, "TAP version 13")
	if count > 0 {
		fmt.Fprintf(t.Writer, "1..%d\n", count)
	}
}

// Ok is one result.
func (t *T) Ok(passed bool, description string) {
	word := "ok"
	if !passed {
		word = "not ok"
	}
	todo := ""
	if t.todo {
		todo = " # TODO"
	}
	fmt.Fprintf(t.Writer, "%s %d -%s %s\n", word, *t.next, todo, description)
	*t.next++
}

// Pass is a result that is good.
func (t *T) Pass(description string) { t.Ok(true, description) }

// Fail is a result that is bad.
func (t *T) Fail(description string) { t.Ok(false, description) }

// Skip is results that could not be had here.
func (t *T) Skip(count int, description string) {
	for ; count > 0; count-- {
		fmt.Fprintf(t.Writer, "ok %d # SKIP %s\n", *t.next, description)
		*t.next++
	}
}

// Todo is the same stream, for results that nobody expects to be good yet.
func (t *T) Todo() *T {
	return &T{next: t.next, todo: true, Writer: t.Writer}
}

// Diagnostic is a remark.
func (t *T) Diagnostic(message string) { fmt.Fprintf(t.Writer, "# %s\n", message) }

// Diagnosticf is a remark with values.
func (t *T) Diagnosticf(format string, a ...interface{}) {
	t.Diagnostic(fmt.Sprintf(format, a...))
}

// YAML is what is known of the last result; JSON is YAML.
func (t *T) YAML(message interface{}) error {
	text, err := json.MarshalIndent(message, "  ", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(t.Writer, "  ---\n  %s\n  ...\n", text)
	return err
}

// AutoPlan ends a stream whose length was not known.
func (t *T) AutoPlan() { fmt.Fprintf(t.Writer, "1..%d\n", *t.next-1) }
