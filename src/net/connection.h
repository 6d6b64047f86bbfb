/*
 * connection.h
 *		Connections to peers: one a (server, role), cached in the session.
 *
 * A connection is opened without blocking, checked before it is used again,
 * and thrown away when its state is uncertain.
 */
#ifndef DTX_CONNECTION_H
#define DTX_CONNECTION_H

#include "postgres.h"

#include "core/gid.h"
#include "datatype/timestamp.h"
#include "lib/ilist.h"
#include "libpq-fe.h"
#include "storage/latch.h"
#include "utils/hsearch.h"

#define DTX_PROTOCOL_VERSION	1

/* the greeting: one row */
#define HELLO_SQL \
	"SELECT node, protocol_version, version, in_recovery FROM dtx.peer_hello($1::pg_catalog.int4)"

typedef struct PeerConnection
{
	dlist_node	node;			/* in the session's cache, or unused */
	dlist_node	all_node;		/* among all connections of this process */
	uint64		serial;			/* never used twice in a process */
	Oid			server;
	Oid			role;			/* whose user mapping it uses */
	Oid			mapping;		/* that mapping */
	char		server_name[NAMEDATALEN];
	uint32		server_hash;	/* of the catalog rows it was made from */
	uint32		mapping_hash;
	struct Dial *dial;			/* until it is connected */
	PGconn	   *conn;			/* NULL: names are still being looked up */
	const char *failure;		/* why it does not come to be, if libpq does not know */
	bool		holds_fd;		/* a file descriptor is accounted for it */
	struct WaitEventSet *waits;	/* latch and socket; made when connected */
	uint32		waits_events;	/* what it waits for at the socket */
	bool		needs_password;	/* the password rule applies */
	bool		in_flight;		/* a call was sent and not fully answered */
	bool		invalidated;	/* the server's options changed */
	int			unasked;		/* how often it said something that nobody had asked */
	Size		growth;			/* of this process, while it connects */
	int			trailing;		/* answers to come that nobody waits for */
	struct PeerConnection **holder;	/* who has a transaction open on it; told when it closes */
	bool		ready;			/* greeted; node and version are known */
	bool		standby;		/* greeted by a hot standby: good for reading only */
	bool		unnamed_only;	/* behind a pooler without prepared statements */
	HTAB	   *statements;		/* names of statements prepared at the peer */
	char		peer_node[DTX_NODE_SIZE];
	char		peer_version[32];
} PeerConnection;

/*
 * Begin to connect; waits neither for the socket nor for a name server. The caller polls with
 * connection_poll until it says OK or FAILED, the first time when the socket may be
 * written, or a name is known. ERRORs are those of peer_params.
 */
extern PeerConnection *connection_start(Oid server, Oid role);
extern PostgresPollingStatusType connection_poll(PeerConnection *pc);

/* What to wait at while it connects, or is used. It may change with each poll, and be
 * that of other connections, too, while a name is looked up. */
extern pgsocket connection_socket(PeerConnection *pc);

/* Is it known that it does not come to be? */
extern bool connection_has_failed(PeerConnection *pc);

/* Why there is no connection, as text, palloc'd. */
extern char *connection_error(PeerConnection *pc);

/* A prepared statement was not there, or somebody else's was: from now on this
 * connection, and those to the same server as the same role, do without. */
extern void connection_use_unnamed(PeerConnection *pc);

/* The password rule, after connecting; false with a message in *why. */
extern bool connection_password_ok(PeerConnection *pc);

/* Close without a word, in whatever state; never throws. */
extern void connection_close(PeerConnection *pc);

/* Forget what the peer's NOTIFY has sent: a function there may have listened. */
extern void connection_drop_notifications(PeerConnection *pc);

/* Bytes of memory that this process uses; 0: that is not known. */
extern Size process_size(void);

/* Has the other end gone, or does it talk without being asked? One system call, no waiting. */
extern bool connection_is_dead(PeerConnection *pc);

/*
 * A connection of the session to a server as a role, on which no transaction is
 * open: cached and healthy, or a new one that has exchanged greetings with the peer's dtx. ERROR DX006 when it
 * cannot be had within dtx.connect_timeout or by the deadline (0: none), or the peer is a standby, and
 * 55000 when the peer has no dtx, or another one.
 */
extern PeerConnection *connection_get(Oid server, Oid role, TimestampTz deadline);

/* The same for a statement that only reads: the peer may be a hot standby. */
extern PeerConnection *connection_get_to_read(Oid server, Oid role);

/* Exchange greetings: one round trip. ERRORs as for connection_get. */
extern void connection_greet(PeerConnection *pc, TimestampTz deadline);

/* A transaction or subtransaction ends: close what is in flight, which ends the
 * call there. Never throws. */
extern void connection_close_in_flight(void);

/* Wait for the socket (WL_SOCKET_READABLE, ..WRITEABLE) or the latch; by the
 * deadline (0: none) false is returned. Interrupts are served. */
extern bool connection_wait(PeerConnection *pc, uint32 events, TimestampTz deadline);

/* Milliseconds until a deadline, for WaitLatch: -1 for none, 0 when it passed. */
extern long deadline_remaining(TimestampTz deadline);

#endif							/* DTX_CONNECTION_H */
