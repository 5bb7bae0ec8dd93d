package traffic

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
)

// A Dialogue asks on a connection, and reads the answer. A connection's deadline is set before.
type Dialogue func(conn io.ReadWriter) (Answer, error)

// An Answer says who answered, and whom they saw asking.
type Answer struct {
	Pod, Node string
	Client    netip.Addr
}

// Get asks by HTTP for one answer and says that it is the last.
func Get(conn io.ReadWriter) (Answer, error) {
	return get(conn, "GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")
}

// GetAgain asks by HTTP for one answer of many.
func GetAgain(conn io.ReadWriter) (Answer, error) {
	return get(conn, "GET / HTTP/1.1\r\nHost: lab\r\n\r\n")
}

func get(conn io.ReadWriter, request string) (Answer, error) {
	if _, err := io.WriteString(conn, request); err != nil {
		return Answer{}, err
	}
	response, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), nil)
	if err != nil {
		return Answer{}, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 512))
	if err != nil {
		return Answer{}, err
	}
	if response.StatusCode != http.StatusOK {
		return Answer{}, fmt.Errorf("the answer is %s: %q", response.Status, text)
	}
	return ParseAnswer(string(text))
}

// ParseAnswer reads a line as the lab's pods write it: pod, node, and the client's address, with or without its port.
func ParseAnswer(line string) (Answer, error) {
	strange := fmt.Errorf("the answer is %q: want a pod, a node, and the client's address", line)
	words := strings.Fields(line)
	if len(words) != 3 {
		return Answer{}, strange
	}
	client, err := netip.ParseAddr(words[2])
	if err != nil {
		both, err := netip.ParseAddrPort(words[2])
		if err != nil {
			return Answer{}, strange
		}
		client = both.Addr()
	}
	return Answer{words[0], words[1], client.Unmap()}, nil
}

// A Class is a kind of failure.
type Class string

const (
	Refused     Class = "refused"     // nobody listens, or somebody rejects
	Timeout     Class = "timeout"     // no answer in time
	Reset       Class = "reset"       // the connection was there, and was thrown away
	Closed      Class = "closed"      // the connection was there, and was closed before it was answered
	Unreachable Class = "unreachable" // there is no route, or a router or neighbor says so
	Other       Class = "other"       // among them answers that make no sense
)

var classes = []struct {
	of    error
	class Class
}{
	{syscall.ECONNREFUSED, Refused},
	{os.ErrDeadlineExceeded, Timeout},
	{syscall.ETIMEDOUT, Timeout},
	{syscall.ECONNRESET, Reset},
	{syscall.EPIPE, Reset},
	{io.EOF, Closed},
	{io.ErrUnexpectedEOF, Closed},
	{syscall.EHOSTUNREACH, Unreachable},
	{syscall.ENETUNREACH, Unreachable},
}
