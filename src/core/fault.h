/*
 * fault.h
 *		Fault points: named steps of the protocol at which a test can stop.
 *
 * dtx.fault_point = 'name:action' arms one (superusers only); the action is
 *
 *	error	an ERROR is raised; where raising is forbidden it is a no-op
 *	kill	this process ends as by kill -9, and so does the cluster
 *	stop	the whole cluster stops at once, as by pg_ctl -m immediate
 *	cut		this session ends without a farewell, as by a cut connection
 *	wait	the process waits until the exclusive advisory lock (1685353504, 1)
 *			is free; only where waiting is allowed
 *
 * Unarmed, a point costs one predictable branch.
 */
#ifndef DTX_FAULT_H
#define DTX_FAULT_H

extern bool fault_armed;
extern char *fault_point_setting;

extern void fault_reached(const char *name, bool may_throw);
extern bool fault_check_setting(char **newval, void **extra, int source);
extern void fault_assign_setting(const char *newval, void *extra);

/* a point where an ERROR may be raised */
#define DTX_FAULT_POINT(name) \
	do { if (unlikely(fault_armed)) fault_reached(name, true); } while (0)

/* a point inside a commit or abort callback, or in a critical step of a worker */
#define DTX_FAULT_POINT_NOTHROW(name) \
	do { if (unlikely(fault_armed)) fault_reached(name, false); } while (0)

#endif							/* DTX_FAULT_H */
