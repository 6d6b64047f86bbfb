/*
 * vote.h
 *		The vote on a shared transaction.
 */
#ifndef DTX_VOTE_H
#define DTX_VOTE_H

#include "core/gid.h"

/* A row of dtx.branch of a shared transaction. */
typedef struct SharedBranch
{
	char		gid_text[DTX_GID_SIZE];
	Oid			server;			/* InvalidOid: this database */
	Oid			role;
} SharedBranch;

/*
 * Ask all participants at once. True: every branch has committed phase 1; false,
 * with a WARNING for each: some never will. ERROR DX003 while one is running.
 */
extern bool vote_take(SharedBranch *branches, int count);

#endif							/* DTX_VOTE_H */
