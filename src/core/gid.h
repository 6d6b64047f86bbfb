/*
 * gid.h
 *		Ids of global transactions and branches.
 *
 *	xid		NODE:N.R	NODE is name.tag; N is the coordinator's xid8 of the
 *						transaction that began it; R is 64 random bits
 *	gid		NODE:N.R/B	B counts up within the global transaction; a branch of
 *						a branch adds another /B
 *
 * A name may be any text, and ids travel: in headers of HTTP, in commands, between
 * databases of other encodings. So in ids it has letters, digits and -._~ only, each
 * other byte is %XX, and what does not fit any more is left out: the tag tells nodes
 * apart.
 *
 * Two ids are the same only if all of their parts are: after a crash the
 * coordinator may hand out an N again, and R tells the two apart.
 */
#ifndef DTX_GID_H
#define DTX_GID_H

#include "postgres.h"

#define DTX_TAG_LENGTH		8
#define DTX_SHARED_B_END	(1 << 30)	/* numbers that dtx.shared_b gives are below */
#define DTX_NODE_SIZE		(NAMEDATALEN + 1 + DTX_TAG_LENGTH)	/* with the \0 */
#define DTX_PATH_SIZE		80	/* of all the /B; PREPARE TRANSACTION takes 199 bytes */
#define DTX_GID_SIZE		(DTX_NODE_SIZE + 1 + 20 + 1 + 16 + DTX_PATH_SIZE)

/* A node's name as it stands in ids, into a buffer of NAMEDATALEN bytes. */
extern void node_name_encode(const char *name, char *buffer);

/* The same for one that users give: palloc'd. One that has that form already is left as it is. */
extern char *node_name_normal(const char *name);

/* Is that the name of the node with this id, as users give it? */
extern bool node_has_name(const char *node, const char *name);

typedef struct GlobalXid
{
	char		node[DTX_NODE_SIZE];	/* coordinator, name.tag */
	uint64		n;				/* its xid8 */
	uint64		r;				/* random */
} GlobalXid;

typedef struct Gid
{
	GlobalXid	xid;
	uint32		b;				/* the last branch number, from 1 */
	int			depth;			/* how many there are: 1, or more for a branch of a branch */
} Gid;

/* Parse; false when the text is not an id in its one canonical form. */
extern bool xid_parse(const char *text, GlobalXid *xid);
extern bool gid_parse(const char *text, Gid *gid);

/* Parse; an ERROR (22023) that shows the form otherwise. */
extern void xid_parse_or_error(const char *text, GlobalXid *xid);
extern void gid_parse_or_error(const char *text, Gid *gid);

/* Format into a buffer of DTX_GID_SIZE bytes. */
extern void xid_format(const GlobalXid *xid, char *buffer);

/* The gid of branch b of a global transaction, or of a branch, whose id is
 * parent. ERROR 54001 when it is nested too deeply. */
extern void gid_of_child(const char *parent, uint32 b, char *buffer);

/* The id without its last /B: the superior branch, or the global transaction. */
extern void gid_parent(const char *gid_text, char *buffer);

extern bool xid_equal(const GlobalXid *a, const GlobalXid *b);

/* A 64-bit hash of the whole xid, never 0. */
extern uint64 xid_hash(const GlobalXid *xid);

/*
 * The key under which a participant keeps a branch: the low half of N in the
 * high bits, so that branches that are young together lie together in an
 * index, and a hash of the whole gid in the low ones. The key is unique at
 * the participant; whoever looks a branch up by it compares the whole gid too.
 */
extern int64 gid_branch_key(const Gid *gid, const char *text);

#endif							/* DTX_GID_H */
