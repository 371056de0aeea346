# The frames of a DICOM file as pydicom has them, as JSON: python frames.py FILE
import json
import sys

import pydicom

data = pydicom.dcmread(sys.argv[1])
shape = (data.NumberOfFrames, data.Rows, data.Columns)
values = data.pixel_array.reshape(shape)


def group(frame, name):
    shared = data.SharedFunctionalGroupsSequence[0]
    return (frame if name in frame else shared).get(name, [None])[0]


frames = [
    {
        "segment": getattr(group(frame, "SegmentIdentificationSequence"), "ReferencedSegmentNumber", None),
        "position": [float(x) for x in group(frame, "PlanePositionSequence").ImagePositionPatient],
        "source": group(frame, "DerivationImageSequence").SourceImageSequence[0].ReferencedSOPInstanceUID,
        "values": values[i].ravel().tolist(),
    }
    for i, frame in enumerate(data.PerFrameFunctionalGroupsSequence)
]
told = {name: str(data.get(name, "")) for name in sys.argv[2:]}
print(json.dumps({"frames": frames, **told}))
