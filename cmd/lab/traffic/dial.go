package traffic

import (
	"errors"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// begin makes a socket in the namespace of the calling thread, and sends the first packet. It does not wait for an answer: package net
// would, and each connection that waits would need a thread of its own in the namespace.
func begin(target netip.AddrPort) (*os.File, error) {
	family, addr := unix.AF_INET6, unix.Sockaddr(&unix.SockaddrInet6{Addr: target.Addr().As16(), Port: int(target.Port())})
	if ip := target.Addr().Unmap(); ip.Is4() {
		family, addr = unix.AF_INET, &unix.SockaddrInet4{Addr: ip.As4(), Port: int(target.Port())}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, addr); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	return os.NewFile(uintptr(fd), target.String()), nil
}

// connected waits until the other side has answered, or the file's deadline.
func connected(conn *os.File) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Write(func(fd uintptr) bool {
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = syscall.Errno(code)
		}
		if err != nil {
			failure = os.NewSyscallError("connect", err)
			return true
		}
		_, err = unix.Getpeername(int(fd)) // ENOTCONN: not yet
		return err == nil
	})
	return errors.Join(err, failure)
}
