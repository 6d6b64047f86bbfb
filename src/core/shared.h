/*
 * shared.h
 *		Global transactions that services share: dtx_open, dtx_join, dtx_commit,
 *		dtx_rollback.
 */
#ifndef DTX_SHARED_H
#define DTX_SHARED_H

#include "core/gid.h"

/* The state of the shared transaction n of this node: 'o' open, 'c' committed,
 * 'r' rolled back; 0 when there is none. */
extern char shared_state(uint64 n);

#endif							/* DTX_SHARED_H */
