"""A camera in a test: sends the pictures of the examples to a node, checks the regions it finds.

Prints one JSON line: for each picture how far, in pixels, the region's middle is from the ball's.
Before that it checks the messages that the node makes of other kinds of answers.
"""

import json
import sys
from array import array
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "examples"))

import numpy as np
import rclpy
from camera import HEIGHT, WIDTH, ball, picture
from camera_node import message_of, rgb
from rclpy.node import Node
from sensor_msgs.msg import Image, RegionOfInterest

AGAIN_S = 2.0
"""A picture that nothing came back for is sent again: the node may just have started."""


def image_of(number, encoding):
    pixels = picture(number)
    out = Image(height=HEIGHT, width=WIDTH, encoding=encoding, step=3 * WIDTH + 2)
    rows = np.zeros((HEIGHT, out.step), np.uint8)
    rows[:, : 3 * WIDTH] = (pixels if encoding == "rgb8" else pixels[..., ::-1]).reshape(
        HEIGHT, -1
    )
    out.data = array("B", rows.tobytes())
    out.header.frame_id = "camera"
    return out


def check_messages():
    for encoding in ("rgb8", "bgr8"):
        assert (rgb(image_of(4, encoding)) == picture(4)).all()
    came = image_of(0, "rgb8")
    for wrong in ({"encoding": "mono8"}, {"height": 1}, {"step": 3}, {"data": array("B", b"x")}):
        image = image_of(0, "rgb8")
        for name, value in wrong.items():
            setattr(image, name, value)
        try:
            rgb(image)
        except ValueError:
            continue
        raise AssertionError(wrong)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[2, 3] = 255
    said = message_of("mask", mask, came)
    assert (said.encoding, said.step, said.width) == ("mono8", WIDTH, WIDTH)
    assert (said.header.frame_id, bytes(said.data)) == ("camera", mask.tobytes())
    said = message_of("picture", picture(1), came)
    assert (said.encoding, said.step, said.height) == ("rgb8", 3 * WIDTH, HEIGHT)
    assert message_of("label", "left", came).data == "left"


class Camera(Node):
    def __init__(self, pictures):
        super().__init__("camera")
        self.pictures, self.away = pictures, []
        self._images = self.create_publisher(Image, "image_raw", 1)
        self.create_subscription(RegionOfInterest, "region", self.on_region, 1)
        self._timer = self.create_timer(AGAIN_S, self.send)

    def send(self):
        number = len(self.away)
        self._images.publish(image_of(number, ("rgb8", "bgr8")[number % 2]))
        self._timer.reset()

    def on_region(self, message):
        x, y = ball(len(self.away))
        middle = (message.x_offset + message.width / 2, message.y_offset + message.height / 2)
        away = float(np.hypot(middle[0] - x, middle[1] - y))
        before = ball(len(self.away) - 1) if self.away else (x, y)
        if away > np.hypot(middle[0] - before[0], middle[1] - before[1]):
            return  # of a picture that was sent again
        self.away.append(away)
        if len(self.away) < self.pictures:
            self.send()


def main():
    check_messages()
    rclpy.init()
    camera = Camera(int(sys.argv[1]))
    while len(camera.away) < camera.pictures:
        rclpy.spin_once(camera)
    print(json.dumps({"away": camera.away}))
    camera.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
