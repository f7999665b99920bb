"""Reads canonical JSON with Python's protobuf library.

Each line of standard input is ["Message", "text"]. Each line of standard output is null where the library refuses the
text, else the message as {"bytes": hex, "forms": [several ways in which the library writes it as JSON]}.
"""

import json
import sys

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

pool = descriptor_pool.DescriptorPool()
with open(sys.argv[1], "rb") as file:
    for described in descriptor_pb2.FileDescriptorSet.FromString(file.read()).file:
        pool.Add(described)

for line in sys.stdin:
    name, text = json.loads(line)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"carebell.v1.{name}"))()
    try:
        json_format.Parse(text, message)
    except json_format.ParseError:
        print("null")
        continue
    forms = [
        json_format.MessageToJson(message),
        json_format.MessageToJson(message, preserving_proto_field_name=True, indent=None),
        json_format.MessageToJson(message, use_integers_for_enums=True, ensure_ascii=False),
        json_format.MessageToJson(message, always_print_fields_with_no_presence=True),
    ]
    print(json.dumps({"bytes": message.SerializeToString(deterministic=True).hex(), "forms": forms}))
