/*
 * leftover.h
 *		What others' code leaves in a session that goes on to serve others.
 */
#ifndef DTX_LEFTOVER_H
#define DTX_LEFTOVER_H

#include "postgres.h"

/* A call of another node has begun, which settles or delivers: until this transaction
 * ends the session is lent to the functions that it calls. */
extern void session_lend(void);

/* This process is dtx's own, and all it does is call others' functions. */
extern void session_lend_always(void);

/* Is it? So it is in a branch that a coordinator's connection has joined. */
extern bool session_is_lent(void);

/* A function has run, of which the next one shall notice nothing. In a transaction. May
 * throw: of temporary tables that are still in use. */
extern void leftovers_clear(void);

/* It has failed: most of it is undone. Never throws. */
extern void leftovers_release(void);

/* The transaction is about to commit. May throw. */
extern void leftovers_pre_commit(void);

/* The transaction ended. Never throws. */
extern void leftovers_xact_end(void);

#endif							/* DTX_LEFTOVER_H */
