/*
 * horizon.h
 *		How far coordinators have forgotten their transactions.
 */
#ifndef DTX_HORIZON_H
#define DTX_HORIZON_H

#include "core/settle.h"

/* Keep what the caller of a settle call says of its horizon and timeline, and
 * forget what is remembered below it. In that call's transaction. */
extern void horizon_advance(const SettleCaller *caller);

#endif							/* DTX_HORIZON_H */
