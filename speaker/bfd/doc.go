// Package bfd answers routers that ask by BFD whether this node is alive, and watches them in turn: RFC 5880's asynchronous mode,
// over one hop (RFC 5881) and over several (RFC 5883), IPv4 and IPv6.
//
// A Session is one session, as a value that computes: it takes packets and the time, and says what to send and when to look again.
// It knows neither clock nor socket. Codec and checks of packets are before it (Packet), and whose packet it is decides a Responder,
// which is the loop around all sessions: it hears packets, looks after the sessions whose time has come, and sends what they say.
// The loop reads all that the kernel has before it looks at the time. So a Responder that got no processor for a while does not
// take that for silence of the routers.
//
// This is meant to run in a process of its own. Inside the speaker, each restart of the speaker would look like the death of the
// node, and routers would drop the routes that graceful restart is there to keep. For the same reason the C bit is never set: what
// routers shall do when BFD goes down is to forget our routes.
//
// Not spoken are authentication, the echo function, and demand mode on our own side. A router in demand mode gets no periodic packets,
// as it asks.
package bfd
