"""NanoDet-416 object detection: pixels in, detections and an annotated picture out (no ROS)."""
