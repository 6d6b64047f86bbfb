/*
 * subxact.h
 *		Running something in a subtransaction of its own.
 */
#ifndef DTX_SUBXACT_H
#define DTX_SUBXACT_H

#include "postgres.h"

/*
 * Call work(arg) in an internal subtransaction, in the current memory context
 * and resource owner. NULL: it is done. Otherwise it is undone, and this is why,
 * in the current memory context. Who cancels or ends the session means it: those
 * ERRORs are thrown again.
 */
extern ErrorData *subxact_run(void (*work) (void *arg), void *arg);

#endif							/* DTX_SUBXACT_H */
