"""Prints the version of the package tzdata, then for each zone its UTC offset at a first hour, and each later hour at which
it is another: `Europe/Vienna 0=3600 2018=7200 …`.

    offsets.py FIRST HOURS      FIRST in seconds since 1970
"""

import sys
import zoneinfo
from datetime import datetime

import tzdata

first, hours = int(sys.argv[1]), int(sys.argv[2])
print(tzdata.IANA_VERSION)
for name in sorted(zoneinfo.available_timezones()):
    zone, last, changes = zoneinfo.ZoneInfo(name), None, []
    for hour in range(hours):
        offset = datetime.fromtimestamp(first + 3600 * hour, zone).utcoffset()
        if offset != last:
            changes.append(f"{hour}={int(offset.total_seconds())}")
            last = offset
    print(name, *changes)
