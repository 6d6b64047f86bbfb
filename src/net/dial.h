/*
 * dial.h
 *		Beginning to connect to a peer: what libpq would wait for is done before, or
 *		looked at, so that it does not wait.
 *
 * libpq resolves names where it is called, and reads the files that options name,
 * whatever they are. So it is given addresses, beside the names that certificates are
 * compared with, and the files are looked at whenever it might read them next.
 */
#ifndef DTX_DIAL_H
#define DTX_DIAL_H

#include "postgres.h"

#include "libpq-fe.h"
#include "net/peer.h"
#include "storage/latch.h"

typedef struct Dial Dial;

/* Copy what is needed, into a context under parent; starts nothing. */
extern Dial *dial_new(const PeerParams *params, Oid role, MemoryContext parent);

/* What it lives in: the caller may give it another parent. */
extern MemoryContext dial_context(Dial *dial);

/* Have the names looked up. NULL, or why that cannot be, in its memory. Throws nothing. */
extern const char *dial_start(Dial *dial);

/* Are all names known? Until then this is the socket to wait at. */
extern bool dial_ready(Dial *dial);
extern pgsocket dial_socket(Dial *dial);

/* NULL, or which file is none that can be read without waiting, in its memory. */
extern const char *dial_check_files(Dial *dial);

/* What PQconnectStartParams returns. NULL: *why, in its memory. */
extern PGconn *dial_connect(Dial *dial, const char **why);

/* At any time; never throws. */
extern void dial_free(Dial *dial);

/* Is there a file of that name, and is it not a regular one? Others may have no end, or
 * no beginning. */
extern bool file_is_special(const char *path);

#endif							/* DTX_DIAL_H */
